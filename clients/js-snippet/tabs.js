/**
 * One socket for all tabs of a browser: pass `tabs({ subject })` to `planwire` as its `socket`.
 *
 * Role: a Socket that is either the one real connection (in the tab that holds a Web Lock) or a line to it (a
 * BroadcastChannel). The core in each tab says hello, subscribes and acks as if it were alone; the leading tab passes
 * that on, and passes every frame back. When the leader goes, the lock does too: the next tab in line connects, and
 * every core says hello again with the versions it holds. It does not parse state and keeps none.
 *
 * A leader can hang without letting go of the lock. So a tab that is visible asks it for a sign of life ASK_MS after the
 * last one, at once when it becomes visible, and with all that it says; without one within ANSWER_MS it takes the lock.
 * More often than that would wake every tab for next to nothing. Messages are not throttled in hidden tabs as timers
 * are. One answer does for all who wait, so each waits a little longer than another. A leader that was merely slow
 * steps down as soon as it runs again; what it still says until then is heard by nobody.
 *
 * Where Web Locks or BroadcastChannel are missing, each tab connects for itself.
 * An ack on a shared socket says that at least one tab has painted the version; a nack of any tab is passed on.
 */

const ASK_MS = 1000;
const SOON_MS = 100;
const ANSWER_MS = 250;
const SPREAD_MS = 40;

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
    let /** @type {any} */ leader;
    let /** @type {any} */ joined;
    let /** @type {any} */ release;
    let /** @type {any} */ over;
    let /** @type {any} */ timer;
    let /** @type {any} */ seenAt;
    let /** @type {any} */ patience; // ms

    /** @param {any} [note] */
    const post = (note) => bus.postMessage({ from: id, leads: !!real, ...note });

    /** @param {() => void} then @param {number} ms */
    const wait = (then, ms) => {
      clearTimeout(timer);
      timer = setTimeout(then, ms + Math.random() * SPREAD_MS);
    };

    /** @param {any} [code] what to tell the core; nothing when it knows */
    const end = (code) => {
      if (over) return;
      over = 1;
      clearTimeout(timer);
      queue.abort();
      if (real) {
        real.onclose = 0;
        real.close();
      } else post({ text: "" });
      bus.close();
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

    const robbed = () => real && end(4000);

    /** @param {any} options how to ask for the lock */
    const campaign = (options) =>
      locks
        .request(
          name,
          options,
          () =>
            new Promise((resolve) => {
              if (over) return resolve(0);
              release = resolve;
              clearTimeout(timer);
              real = socket(url);
              post({ to: 0 });
              globalThis.document?.addEventListener("freeze", robbed, queue); // until its signal
              real.onopen = () => {
                greeted = 0;
                virtual.onopen({});
              };
              real.onmessage = (/** @type {any} */ { data }) => {
                seenAt = Date.now();
                if (/^{"type":"welcome"/.test(data)) {
                  patience = 2.5 * JSON.parse(data).heartbeat_ms;
                  welcome || post({ up: 1 });
                  welcome = data.replace("token_", ""); // without `token_expires_at`: the leader alone renews the token
                } else post({ text: data });
                virtual.onmessage({ data });
              };
              real.onclose = (/** @type {any} */ { code }) => {
                post({ code: code == 4401 ? 4000 : code });
                end(code);
              };
            }),
        )
        .catch(robbed);

    /** Says something to the leader, and takes its lock when it does not answer. @param {any} [note] */
    const ask = (note) => {
      post(note);
      // In two steps: an answer that came while this tab itself was busy is read in between.
      wait(() => wait(() => campaign({ steal: true }), 0), ANSWER_MS);
    };

    /** While nobody looks it does not matter; browsers let a hidden tab look less often than this, and then at once. */
    const look = () => (globalThis.document?.hidden ? wait(look, SOON_MS) : ask({ again: 1 }));

    /** @type {any} */
    const virtual = {
      send: (/** @type {string} */ text) => (real ? pass(text, id) : ask({ again: 1, text })),
      close: () => end(),
    };

    bus.onmessage = ({ data: { from, to, text, up, code, leads, again } }) => {
      if (real) {
        if (leads) return;
        text && pass(text, from);
        if (text == "") for (const topic in holders) holders[topic].has(from) && pass(JSON.stringify({ type: "unsubscribe", topic }), from);
        // A hidden leader's timers are throttled: its core may not have noticed yet that the socket is dead.
        else if (welcome && Date.now() - seenAt > patience) real.onclose({ code: 4000 });
        else post({ to: from, up: welcome && !again });
      } else if (leads) {
        if (to === 0 || (!leader && to == id)) leader = from;
        if (from != leader) return; // another was robbed and does not know it yet
        wait(look, ASK_MS);
        if (to && to != id) return;
        up && virtual.onopen({});
        // What is for all tabs is for this one only after its own welcome.
        if (text && (joined ||= to)) virtual.onmessage({ data: text });
        code && end(code);
      }
    };

    campaign(queue); // that is, until its signal
    ask();
    return virtual;
  };
