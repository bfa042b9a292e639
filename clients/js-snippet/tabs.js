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
 * Where the whole machine is slow, impatience would only make all rob one another in turn. So who takes the lock waits
 * twice as long the next time, up to MOST_MS, and who is answered waits for ANSWER_MS and twice what the answer took.
 *
 * Where Web Locks or BroadcastChannel are missing, each tab connects for itself.
 * An ack on a shared socket says that at least one tab has painted the version; a nack of any tab is passed on.
 */

const ASK_MS = 1000;
const SOON_MS = 100;
const ANSWER_MS = 250;
const MOST_MS = 4000;
const SPREAD_MS = 40;

/**
 * How to connect: hand it to `planwire` as `socket`.
 * @param {object} options
 * @param {string} options.subject  who is signed in; tabs share a socket only where it is the same
 * @param {(url: string) => import("./planwire.js").Socket} [options.socket]  how the leader connects
 * @param {number} [answerMs]  how long a leader may take to answer, until that has been measured
 * @returns {(url: string) => import("./planwire.js").Socket}
 */
export const tabs =
  ({ subject, socket = (to) => new WebSocket(to, "planwire.v1") }, answerMs = ANSWER_MS) =>
  (url) => {
    const { locks } = navigator;
    if (!locks || !globalThis.BroadcastChannel) return socket(url);
    const name = `planwire ${subject} ${url}`;
    const id = Math.random();
    const bus = new BroadcastChannel(name);
    const queue = new AbortController();
    /** @type {Record<string, Set<number>>} topic -> the tabs that want it */
    const holders = { __proto__: /** @type {any} */ (null) };
    /** @type {Record<string, number>} topic -> the newest version acked */
    const acked = { __proto__: /** @type {any} */ (null) };
    let /** @type {any} */ real;
    let /** @type {any} */ greeted; // undefined: not connected, 0: connected, 1: the hello is sent
    let /** @type {any} */ welcome;
    let /** @type {any} */ leader;
    let /** @type {any} */ joined;
    let /** @type {any} */ release;
    let /** @type {any} */ over;
    let /** @type {any} */ timer;
    let /** @type {any} */ seenAt; // by the leader: the gateway's last frame; by others: their last question

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
        for (const topic of Object.keys(topics)) {
          want(topic);
          greeted && real.send(JSON.stringify({ type: "subscribe", topic, version: topics[topic] }));
        }
        if (greeted) return post({ to: from, text: welcome });
        greeted = 1;
      }
      if (type == "subscribe") want(topic);
      if (type == "ack") {
        if (version <= acked[topic]) return;
        acked[topic] = version;
      }
      if (type == "unsubscribe") {
        if (!holders[topic]?.delete(from) || holders[topic].size) return;
      }
      real.send(text);
    };

    /** @param {any} options how to ask for the lock */
    const campaign = (options) =>
      locks
        .request(
          name,
          options,
          () =>
            new Promise((resolve) => {
              if (over || real) return resolve(0); // it robbed itself
              release = resolve;
              clearTimeout(timer);
              real = socket(url);
              post({ to: 0 });
              real.onopen = () => {
                greeted = 0;
                virtual.onopen({});
              };
              real.onmessage = (/** @type {any} */ { data }) => {
                seenAt = Date.now();
                if (/^{"type":"welcome/.test(data)) {
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
        .catch(() => end(4000)); // robbed, maybe before it knew that it had the lock

    /** Says something to the leader, and takes its lock when it does not answer. @param {any} [note] */
    const ask = (note) => {
      post(note);
      // In two steps: an answer that came while this tab itself was busy is read in between.
      seenAt = Date.now();
      // Never 0, `answerMs` is as good as true.
      wait(() => wait(() => campaign({ steal: (answerMs *= 2) }), 0), Math.min(answerMs, MOST_MS));
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
        if (text == "") for (const topic in holders) pass(JSON.stringify({ type: "unsubscribe", topic }), from);
        // A hidden leader's timers are throttled: its core may not have noticed yet that the socket is dead.
        else if (welcome && Date.now() - seenAt > 2.5 * JSON.parse(welcome).heartbeat_ms) real.onclose({ code: 4000 });
        else post({ to: from, up: welcome && !again });
      } else if (leads) {
        if (to === 0 || (!leader && to == id)) leader = from;
        if (from != leader) return; // another was robbed and does not know it yet
        wait(look, ASK_MS);
        if (to) {
          if (to != id) return;
          answerMs = ANSWER_MS + 2 * (Date.now() - seenAt);
        }
        up && virtual.onopen({});
        // What is for all tabs is for this one only after its own welcome.
        if (text && (joined ||= to)) virtual.onmessage({ data: text });
        code && end(code);
      }
    };

    // Until its signal, both. A frozen tab does not lead, and must not be next in line: it could not use the lock.
    globalThis.document?.addEventListener("freeze", () => end(4000), queue);
    campaign(queue);
    ask();
    return virtual;
  };
