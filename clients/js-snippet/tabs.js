/**
 * One socket for all tabs of a browser: pass `tabs({ subject })` to `planwire` as its `socket`.
 *
 * Role: a Socket that is either the one real connection (in the leader: the tab that holds a Web Lock) or a line to it
 * (a BroadcastChannel). The core of each tab says hello, subscribes and acks as if it were alone; the leader passes that
 * on, and passes every frame back. When the leader goes, the next tab in line gets the lock and connects, and every core
 * says hello again with the versions it holds. State is neither parsed nor kept here.
 *
 * A leader can hang without letting go of the lock. So a visible tab asks it for a sign of life: ASK_MS after the last
 * one, at once when the tab becomes visible, and with each frame that it sends. Without an answer within ANSWER_MS the
 * tab steals the lock. One answer serves all tabs that wait, so each waits a random time longer than that. A leader that
 * was only slow closes its socket as soon as it runs again; until then all tabs ignore it.
 *
 * On a slow machine tabs could keep stealing the lock from each other, so the timeout doubles after each steal, up to
 * MOST_MS, and an answer sets it to ANSWER_MS and twice the time that the answer took.
 *
 * Where Web Locks or BroadcastChannel are missing, each tab connects for itself.
 * An ack on a shared socket says that at least one tab has painted the version; every nack is passed on.
 *
 * Notes on the channel, which tabs of another version read too: `from` and `leads` say who sends it. From the leader:
 * `to` (0: "I lead now"; a tab's id: its answer; none: for all), `text` (a frame), `up` (say hello), `code` (the socket was
 * closed). From a tab: `text` (a frame; empty: this tab leaves), `again` (it has said hello already).
 */

/** From the leader's last sign of life to the next question, ms. */
const ASK_MS = 1000;
/** Between two looks at whether a hidden tab has become visible, ms. */
const HIDDEN_MS = 100;
/** How long a leader may take to answer, ms, until that has been measured. */
const ANSWER_MS = 250;
/** The longest that a tab waits for an answer, ms. */
const MOST_MS = 4000;
/** Tabs that wait for the same thing are spread over this time, ms. */
const SPREAD_MS = 40;
/** A connection without a frame for this many heartbeats is dead, as in planwire.js. */
const SILENT_HEARTBEATS = 2.5;
/** The close code for "lost here, connect again". */
const LOST = 4000;

/**
 * The leader's part: the real socket, and which tabs want which topic.
 * @param {import("./planwire.js").Socket} real
 * @param {(note: object) => void} post  to all other tabs
 * @param {any} core  this tab's own: `onopen` and `onmessage` are called
 * @param {(code: number) => void} onClose
 */
const createLeader = (real, post, core, onClose) => {
  /** @type {Record<string, Set<number>>} topic -> the tabs that want it */
  const holders = { __proto__: /** @type {any} */ (null) };
  /** @type {Record<string, number>} topic -> the newest version acked */
  const acked = { __proto__: /** @type {any} */ (null) };
  /** @type {"connecting" | "open" | "greeted"} greeted: the first hello is sent */
  let phase = "connecting";
  let welcome = ""; // the newest, as text
  let seenAt = 0;

  real.onopen = () => {
    phase = "open";
    core.onopen({});
  };
  real.onmessage = (/** @type {{data: string}} */ event) => {
    const { data } = event;
    seenAt = Date.now();
    if (data.startsWith('{"type":"welcome')) {
      if (!welcome) post({ up: 1 });
      // The other tabs see no `token_expires_at`: the leader alone renews the token.
      welcome = data.replace("token_", "");
    } else post({ text: data });
    core.onmessage(event);
  };
  real.onclose = (/** @type {{code: number}} */ { code }) => onClose(code);

  /** @param {string} topic @param {number} tab */
  const hold = (topic, tab) => (holders[topic] ??= new Set()).add(tab);

  /** A hello on a socket that has had one: its topics are subscribed to. @param {Record<string, number>} versions @param {number} tab */
  const join = (versions, tab) => {
    for (const topic of Object.keys(versions))
      forward(JSON.stringify({ type: "subscribe", topic, version: versions[topic] }), tab);
    post({ to: tab, text: welcome });
  };

  /** Sends what a tab's core says, unless the gateway knows it. @param {string} text @param {number} tab */
  const forward = (text, tab) => {
    // Too early: each core says hello once the socket is open, and with it all that matters.
    if (phase == "connecting") return;
    const { type, topic, topics, version } = JSON.parse(text);
    if (type == "hello") {
      if (phase == "greeted") return join(topics, tab);
      phase = "greeted";
      for (const name of Object.keys(topics)) hold(name, tab);
    }
    if (type == "subscribe") hold(topic, tab);
    if (type == "ack") {
      if (version <= acked[topic]) return;
      acked[topic] = version;
    }
    // The last tab that holds a topic unsubscribes from it.
    if (type == "unsubscribe" && (!holders[topic]?.delete(tab) || holders[topic].size)) return;
    real.send(text);
  };

  return {
    forward,

    /** Answers a note of another tab. @param {{from: number, text?: string, again?: number}} note */
    answer: ({ from, text, again }) => {
      if (text == "") {
        for (const topic in holders) forward(JSON.stringify({ type: "unsubscribe", topic }), from);
        return;
      }
      if (text) forward(text, from);
      // A hidden leader's timers are throttled: its core may not have noticed yet that the socket is dead.
      if (welcome && Date.now() - seenAt > SILENT_HEARTBEATS * JSON.parse(welcome).heartbeat_ms) onClose(LOST);
      else post({ to: from, up: welcome && !again });
    },

    close: () => {
      real.onclose = null;
      real.close();
    },
  };
};

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
    const ending = new AbortController();
    const { signal } = ending; // ends the wait for the lock, and the listener for `freeze`
    /** @type {ReturnType<typeof createLeader> | null} */
    let lead = null; // while this tab leads
    let leaderId = 0; // the tab that this one follows; 0: none has answered yet
    let isWelcomed = false; // by the leader; frames for all tabs count from then on
    let isOver = false;
    let askedAt = 0;
    /** @type {any} */
    let timer;
    /** @type {(() => void) | undefined} */
    let releaseLock;

    /** @param {object} [note] */
    const post = (note) => bus.postMessage({ from: id, leads: !!lead, ...note });

    /** @param {() => void} then @param {number} ms */
    const wait = (then, ms) => {
      clearTimeout(timer);
      timer = setTimeout(then, ms + Math.random() * SPREAD_MS);
    };

    /** Ends this socket. @param {number} [code] for the core; none when the core itself has closed it */
    const end = (code) => {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      ending.abort();
      if (lead) lead.close();
      else post({ text: "" });
      bus.close();
      releaseLock?.();
      if (code) core.onclose({ code });
    };

    /** The lock is granted: connects, and holds the lock until the end. @returns {Promise<void>} */
    const takeOver = () =>
      new Promise((release) => {
        if (isOver || lead) return release(); // it has stolen the lock from itself
        releaseLock = release;
        clearTimeout(timer);
        lead = createLeader(socket(url), post, core, (code) => {
          // The leader alone fetches another token; the others only connect again.
          post({ code: code == 4401 ? LOST : code });
          end(code);
        });
        post({ to: 0 });
      });

    /** Asks for the lock. It may be stolen from this tab later, or before it knows that it has it. @param {LockOptions} options */
    const campaign = (options) => locks.request(name, options, takeOver).catch(() => end(LOST));

    const steal = () => {
      answerMs *= 2;
      campaign({ steal: true });
    };

    /** Says something to the leader, and steals the lock when it does not answer. @param {object} [note] */
    const ask = (note) => {
      post(note);
      askedAt = Date.now();
      // In two steps: an answer that came while this tab itself was busy is read in between.
      wait(() => wait(steal, 0), Math.min(answerMs, MOST_MS));
    };

    /** A hidden tab does not ask. It looks again soon, as often as the browser lets it. */
    const look = () => {
      if (globalThis.document?.hidden) wait(look, HIDDEN_MS);
      else ask({ again: 1 });
    };

    /** Takes a note of a leader. @param {any} note */
    const follow = ({ from, to, text, up, code }) => {
      if (to === 0 || (!leaderId && to == id)) leaderId = from;
      if (from != leaderId) return; // one whose lock was stolen, and who does not know it yet
      wait(look, ASK_MS);
      if (to && to != id) return;
      if (to) answerMs = ANSWER_MS + 2 * (Date.now() - askedAt);
      if (up) core.onopen({});
      // This tab's own welcome comes before what is for all tabs.
      isWelcomed ||= !!(text && to);
      if (text && isWelcomed) core.onmessage({ data: text });
      if (code) end(code);
    };

    bus.onmessage = ({ data: note }) => {
      if (!lead) {
        if (note.leads) follow(note);
      } else if (!note.leads) lead.answer(note);
    };

    /** What the core of this tab holds. @type {import("./planwire.js").Socket} */
    const core = {
      send: (text) => (lead ? lead.forward(text, id) : ask({ again: 1, text })),
      close: () => end(),
      onopen: null,
      onmessage: null,
      onclose: null,
    };

    // A frozen tab cannot lead, so it lets go of the lock and of its place in the queue.
    globalThis.document?.addEventListener("freeze", () => end(LOST), { signal });
    campaign({ signal });
    ask();
    return core;
  };
