/**
 * One socket for all tabs of a browser: pass `tabs({ subject })` to `planwire` as its `socket`.
 *
 * Role: a Socket that is either the one real connection (in the leader: the tab that holds a Web Lock) or a link to it
 * (a BroadcastChannel). The core of each tab says hello, subscribes and acks as if it were alone. The leader forwards
 * these frames to the gateway, and every frame back. When the leader goes, the next tab in the lock's queue gets the
 * lock and connects, and every core says hello again with its versions. This file neither parses nor stores states.
 *
 * A leader can hang without releasing the lock. So a visible tab asks it for an answer: ASK_MS after the leader's last
 * note, at once when the tab becomes visible, and with each frame that it sends. Without an answer within ANSWER_MS the
 * tab steals the lock. One answer serves all waiting tabs, so each tab adds a random time to its timeout. A leader that
 * was only slow closes its socket as soon as it runs again; until then all tabs ignore it.
 *
 * On a slow machine tabs could keep stealing the lock from each other, so the timeout doubles after each steal, up to
 * MOST_MS. An answer sets it to ANSWER_MS plus twice the time that the answer took.
 *
 * Without Web Locks or BroadcastChannel each tab opens its own connection.
 * An ack on a shared socket means that at least one tab has painted the version; every nack is forwarded.
 *
 * Notes on the channel (tabs of another client version read them too): `from` is the sender, `leads` whether it is the
 * leader. From the leader: `to` (0: "I lead now"; a tab's id: its answer; none: for all), `text` (a frame), `up` (say
 * hello), `code` (the socket was closed). From a tab: `text` (a frame; empty: this tab leaves), `again` (it has said
 * hello already).
 */

/** Time from the leader's last note to the next question, ms. */
const ASK_MS = 1000;
/** Interval at which a hidden tab checks whether it is visible, ms. */
const HIDDEN_MS = 100;
/** Initial timeout for a leader's answer, ms. */
const ANSWER_MS = 250;
/** Maximum timeout for a leader's answer, ms. */
const MOST_MS = 4000;
/** Maximum random delay added to each wait, so that tabs do not act at once, ms. */
const SPREAD_MS = 40;
/** A connection without a frame for this many heartbeats is dead, as in planwire.js. */
const SILENT_HEARTBEATS = 2.5;
/** The close code for a lost connection: the core reconnects. */
const LOST = 4000;

/**
 * The leader: the real socket, and the tabs of each topic.
 * @param {import("./planwire.js").Socket} real
 * @param {(note: object) => void} post  to all other tabs
 * @param {any} core  the core's side of this tab; its `onopen` and `onmessage` are called
 * @param {(code: number) => void} onClose
 */
const createLeader = (real, post, core, onClose) => {
  /** @type {Record<string, Set<number>>} topic -> its tabs */
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

  /** Turns a later tab's hello into subscribes. @param {Record<string, number>} versions @param {number} tab */
  const join = (versions, tab) => {
    for (const topic of Object.keys(versions))
      forward(JSON.stringify({ type: "subscribe", topic, version: versions[topic] }), tab);
    post({ to: tab, text: welcome });
  };

  /** Forwards a frame of a tab's core, unless it is redundant for the gateway. @param {string} text @param {number} tab */
  const forward = (text, tab) => {
    // Too early: each core says hello once the socket is open, and the hello covers this frame.
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
    // Only the last tab of a topic unsubscribes from it.
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
 * The `socket` option for `planwire`: a socket that tabs share.
 * @param {object} options
 * @param {string} options.subject  the signed-in user; only tabs with the same subject share a socket
 * @param {(url: string) => import("./planwire.js").Socket} [options.socket]  how the leader connects
 * @param {number} [answerMs]  initial timeout for a leader's answer
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
    let lead = null; // set while this tab leads
    let leaderId = 0; // the leader that this tab follows; 0: none has answered yet
    let isWelcomed = false; // by the leader; from then on this tab takes frames for all tabs
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

    /** Runs with the lock: connects, and keeps the lock until the end. @returns {Promise<void>} */
    const takeOver = () =>
      new Promise((release) => {
        if (isOver || lead) return release(); // this tab has stolen the lock from itself
        releaseLock = release;
        clearTimeout(timer);
        lead = createLeader(socket(url), post, core, (code) => {
          // Only the leader fetches another token; the others only reconnect.
          post({ code: code == 4401 ? LOST : code });
          end(code);
        });
        post({ to: 0 });
      });

    /** Requests the lock. Another tab may steal it, even before `takeOver` runs. @param {LockOptions} options */
    const campaign = (options) => locks.request(name, options, takeOver).catch(() => end(LOST));

    const steal = () => {
      answerMs *= 2;
      campaign({ steal: true });
    };

    /** Sends a note to the leader, and steals the lock if no answer comes. @param {object} [note] */
    const ask = (note) => {
      post(note);
      askedAt = Date.now();
      // Two timers: if this tab itself was busy, an answer that waits is handled between them.
      wait(() => wait(steal, 0), Math.min(answerMs, MOST_MS));
    };

    /** Asks the leader if this tab is visible; else checks again soon. Browsers throttle timers of hidden tabs. */
    const look = () => {
      if (globalThis.document?.hidden) wait(look, HIDDEN_MS);
      else ask({ again: 1 });
    };

    /** Handles a leader's note. @param {any} note */
    const follow = ({ from, to, text, up, code }) => {
      if (to === 0 || (!leaderId && to == id)) leaderId = from;
      if (from != leaderId) return; // an old leader that has not noticed yet that its lock was stolen
      wait(look, ASK_MS);
      if (to && to != id) return;
      if (to) answerMs = ANSWER_MS + 2 * (Date.now() - askedAt);
      if (up) core.onopen({});
      // This tab ignores frames for all tabs until its own welcome has come.
      isWelcomed ||= !!(text && to);
      if (text && isWelcomed) core.onmessage({ data: text });
      if (code) end(code);
    };

    bus.onmessage = ({ data: note }) => {
      if (!lead) {
        if (note.leads) follow(note);
      } else if (!note.leads) lead.answer(note);
    };

    /** The Socket of this tab's core. @type {import("./planwire.js").Socket} */
    const core = {
      send: (text) => (lead ? lead.forward(text, id) : ask({ again: 1, text })),
      close: () => end(),
      onopen: null,
      onmessage: null,
      onclose: null,
    };

    // A frozen tab cannot lead, so it releases the lock, or leaves the lock's queue.
    globalThis.document?.addEventListener("freeze", () => end(LOST), { signal });
    campaign({ signal });
    ask();
    return core;
  };
