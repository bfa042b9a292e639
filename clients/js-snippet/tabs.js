/**
 * One socket for all tabs of a browser: pass `tabs({ subject })` to `planwire` as its `socket`.
 *
 * Role: a Socket that is either the one real connection (in the tab that holds a Web Lock) or a line to it (a
 * BroadcastChannel). The core in each tab says hello, subscribes and acks as if it were alone; the leading tab passes
 * that on, and passes every frame back. When the leader goes, the lock does too: the next tab in line connects, and
 * every core says hello again with the versions it holds. It does not parse state and keeps none.
 *
 * Where Web Locks or BroadcastChannel are missing, each tab connects for itself. A leader that hangs without letting
 * go of the lock is noticed like any silent connection, and its lock is taken 300 ms after that.
 *
 * An ack on a shared socket says that at least one tab has painted the version; a nack of any tab is passed on.
 */

/** A leader that does not answer within this time has its lock taken, ms. */
const ANSWER_MS = 300;

/**
 * How to connect: hand it to `planwire` as `socket`.
 * @param {object} options
 * @param {string} options.subject  who is signed in; tabs share a socket only where it is the same
 * @param {(url: string) => import("./planwire.js").Socket} [options.socket]  how the leader connects
 * @returns {(url: string) => import("./planwire.js").Socket}
 */
export const tabs =
  ({ subject, socket = (to) => new WebSocket(to, "planwire.v1") }) =>
  (url) => {
    const { locks } = navigator;
    if (!locks || !globalThis.BroadcastChannel) return socket(url);
    const name = `planwire ${subject} ${url}`;
    const id = Math.random();
    const bus = new BroadcastChannel(name);
    const queue = new AbortController();
    /** @type {Record<string, Set<number>>} topic -> the tabs that want it */
    const holders = {};
    /** @type {Record<string, number>} topic -> the newest version acked */
    const acked = {};
    let /** @type {any} */ real;
    let /** @type {any} */ greeted; // undefined: not connected, 0: connected, 1: the hello is sent
    let /** @type {any} */ welcome;
    let /** @type {any} */ joined;
    let /** @type {any} */ release;
    let /** @type {any} */ over;
    let /** @type {any} */ timer;
    let /** @type {any} */ seenAt;
    let /** @type {any} */ patience; // ms

    /** @param {any} note */
    const post = (note) => bus.postMessage(note);

    /** @param {any} [code] what to tell the core; nothing when it knows */
    const end = (code) => {
      if (over) return;
      over = 1;
      clearTimeout(timer);
      queue.abort();
      if (real) {
        real.onclose = 0;
        real.close();
      } else post({ from: id, text: "" });
      bus.close();
      globalThis.document?.removeEventListener("freeze", robbed);
      release?.();
      code && virtual.onclose({ code });
    };

    /** What a tab's core says, in the leader. @param {any} text @param {number} from */
    const pass = (text, from) => {
      // Said to the leader before, or too early: each core says hello anew, and with it all that matters.
      if (greeted == null) return;
      const { type, topic, topics, version } = JSON.parse(text);
      const want = (/** @type {string} */ topic) => (holders[topic] ??= new Set()).add(from);
      if (type == "hello") {
        Object.keys(topics).map(want);
        if (greeted) {
          post({ to: from, text: welcome });
          for (const topic in topics) real.send(JSON.stringify({ type: "subscribe", topic, version: topics[topic] }));
          return;
        }
        greeted = 1;
      }
      if (type == "subscribe") want(topic);
      if (type == "ack") {
        if (version <= acked[topic]) return;
        acked[topic] = version;
      }
      if (type == "unsubscribe") {
        holders[topic]?.delete(from);
        if (holders[topic]?.size) return;
      }
      real.send(text);
    };

    const lead = () =>
      new Promise((resolve) => {
        if (over) return resolve(0);
        release = resolve;
        clearTimeout(timer);
        post({});
        globalThis.document?.addEventListener("freeze", robbed);
        real = socket(url);
        real.onopen = () => {
          greeted = 0;
          virtual.onopen({});
        };
        real.onmessage = (/** @type {any} */ { data }) => {
          seenAt = Date.now();
          if (/^{"type":"welcome"/.test(data)) {
            const frame = JSON.parse(data);
            patience = 2.5 * frame.heartbeat_ms;
            welcome || post({ up: 1 });
            // The leader alone renews the token.
            welcome = JSON.stringify({ ...frame, token_expires_at: undefined });
          } else post({ text: data });
          virtual.onmessage({ data });
        };
        real.onclose = (/** @type {any} */ { code }) => {
          post({ code: code == 4401 ? 4000 : code });
          end(code);
        };
      });

    const robbed = () => real && end(4000);

    /** @type {any} */
    const virtual = {
      send: (/** @type {string} */ text) => (real ? pass(text, id) : post({ from: id, text })),
      close: () => end(),
    };

    bus.onmessage = ({ data: { from, to, text, up, code } }) => {
      if (from) {
        if (!real) return;
        if (text) pass(text, from);
        else if (text == "") for (const topic in holders) holders[topic].has(from) && pass(JSON.stringify({ type: "unsubscribe", topic }), from);
        // A hidden leader's timers are throttled: its core may not have noticed yet that the socket is dead.
        else if (welcome && Date.now() - seenAt > patience) real.onclose({ code: 4000 });
        else post({ to: from, up: welcome && 1 });
      } else if (to == null || to == id) {
        clearTimeout(timer);
        up && virtual.onopen({});
        // What is for all tabs is for this one only after its own welcome.
        if (text && (joined ||= to)) virtual.onmessage({ data: text });
        code && end(code);
      }
    };

    // In two steps: an answer that came while this tab itself was busy is read in between.
    timer = setTimeout(() => {
      timer = setTimeout(() => {
        queue.abort();
        locks.request(name, { steal: true }, lead).catch(robbed);
      }, 0);
    }, ANSWER_MS + Math.random() * 150);
    locks.request(name, { signal: queue.signal }, lead).catch(robbed);
    post({ from: id });
    return virtual;
  };
