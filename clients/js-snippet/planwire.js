/**
 * Planwire in the browser: one socket, any number of topics, and snapshots that say whether they are current.
 *
 * Role: the last step of webhook -> commit -> gateway -> socket -> screen. It speaks `planwire.v1` in full, keeps the
 * newest snapshot of each topic and tells its listeners. It stores nothing, shares no socket and knows no framework:
 * tabs.js, fallback.js, storage.js and the bindings add that through the options `socket` and `initial`.
 *
 * Importing draws no randomness and touches no window. Written for size: state lives in closures, where a minifier
 * can shorten every name.
 */

/**
 * @typedef {"connecting" | "fresh" | "stale" | "offline" | "denied"} Status
 * @typedef {{source?: string, event_id?: string, event_type?: string, occurred_at?: string, received_at?: string}} Cause
 */

/**
 * What is known of a topic. Frozen, the state included; the same object until something changes.
 * @template [State=any]
 * @typedef {object} Snapshot
 * @property {State | null} state  the newest state; null: there is none, or none has arrived yet
 * @property {number} version      microseconds since 1970, strictly rising; 0: no state
 * @property {Status} status       `fresh` only while a gateway that hears every change vouches for this state
 * @property {number} [asOf]       ms since 1970 by this machine's clock, the last moment `state` was known to be the
 *                                 newest; absent: never
 * @property {string | number} [reason]  why it is not fresh: `silence`, `gateway` (it does not hear every change), `bye`,
 *                                 a close code, an event's name, an error, `revoked`, ...; on a fresh one `pending`,
 *                                 `expired` (see `expect`) or empty
 * @property {Cause} [cause]       what led to this version
 */

/**
 * A live topic. `subscribe` is the Svelte store contract; `getSnapshot` suits React's useSyncExternalStore.
 * @template [State=any]
 * @typedef {object} Topic
 * @property {(listener: (snapshot: Readonly<Snapshot<State>>) => void) => () => void} subscribe
 *   calls back at once, then on every change; the first one connects. A listener that throws is reported to the
 *   gateway and does not stop the others.
 * @property {() => Readonly<Snapshot<State>>} getSnapshot
 * @property {() => Readonly<Snapshot<State>>} getServerSnapshot  the one that this page started with
 * @property {(options?: {after?: number, timeoutMs?: number}) => Promise<boolean>} expect
 *   "I just paid": true once something newer than `after` (default: the shown version) is shown; false when that did
 *   not happen within `timeoutMs` (default 30000, at most 120000). Never rejects.
 * @property {() => void} close  leaves the topic; the last one to leave closes the socket
 */

/**
 * What the client needs of a WebSocket; tabs.js and fallback.js make their own. After `close` it says no more.
 * @typedef {object} Socket
 * @property {(text: string) => void} send
 * @property {() => void} close
 * @property {any} onopen
 * @property {any} onmessage
 * @property {any} onclose
 */

/**
 * A snapshot to start with, from the server or from storage.
 * @typedef {{version: number, state: any, status: "stale", reason?: string, asOf?: number}} FirstPaint
 */

/**
 * @typedef {object} Options
 * @property {string} url  the gateway, e.g. `https://live.example.com`; `wss:` for browsers from before 2024
 * @property {string | (() => string | Promise<string>)} token
 *   a token, or a function that fetches one. It is kept, and fetched anew when it is refused or about to expire. If
 *   the function throws, it is asked again later.
 * @property {(url: string) => Socket} [socket]  how to connect; default: a WebSocket
 * @property {(topic: string) => FirstPaint | null | undefined} [initial]  what to show until the gateway has spoken
 */

/** @typedef {{topic: <State = any>(name: string) => Topic<State>}} Planwire */

/** Arrays and null are not. @param {any} value */
const isObject = (value) => value && typeof value == "object" && !Array.isArray(value);

/**
 * The target after an RFC 7396 merge patch. Neither argument changes; untouched branches keep their identity.
 *
 * Only own members are read, and all are defined, not assigned: a state may have keys such as `__proto__`.
 * @param {any} target
 * @param {any} patch
 * @returns {any}
 */
const merge = (target, patch) => {
  if (!isObject(patch)) return patch;
  const members = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [key, value] of Object.entries(patch))
    value === null ? members.delete(key) : members.set(key, merge(members.get(key), value));
  return Object.freeze(Object.fromEntries(members));
};

/**
 * A client of one gateway. It connects when a topic is first subscribed to, and never outside a browser.
 * @param {Options} options
 * @returns {Planwire}
 */
export const planwire = ({ url, token, initial, socket = (to) => new WebSocket(to, "planwire.v1") }) => {
  /** @type {Record<string, any>} without inherited members, whatever a page has added to Object.prototype */
  const topics = { __proto__: /** @type {any} */ (null) };
  let /** @type {any} */ fresh; // the gateway's word that it hears every change
  let attempt = 0;
  let /** @type {any} */ up; // hello is sent: frames may follow
  let /** @type {any} */ life; // nullish: not started, 1: running, 0: denied for good
  let /** @type {any} */ seenAt;
  let /** @type {any} */ ws;
  let /** @type {any} */ timer;
  let /** @type {any} */ bearer;
  /** @type {any} the latest */
  let welcome = { reconnect: { min_ms: 500, max_ms: 30000 } };

  /** @param {any} frame */
  const send = (frame) => up && ws.send(JSON.stringify(frame));

  /** Hands a frame to the topic it names, or to all. @param {any} frame */
  const deliver = (frame) => {
    for (const name in topics) (frame.topic ?? name) == name && topics[name].handle(frame);
  };

  /** The one timer: patience while there is a socket, else the way back. @param {[fn: any, ms: number]} args */
  const arm = (...args) => {
    clearTimeout(timer);
    if (life) timer = setTimeout(...args);
  };

  /**
   * The one way down: forget the socket, say so, come back after the delay.
   * @param {any} reason
   * @param {number} [delay] ms
   */
  const drop = (
    reason = "silence",
    delay = Math.random() * Math.min(welcome.reconnect.max_ms, welcome.reconnect.min_ms * 2 ** attempt++),
  ) => {
    ws?.close?.();
    ws = up = 0;
    arm(connect, delay);
    deliver({ type: life ? "stale" : "gone", reason });
  };

  /** Fetches a token where one is needed, and puts it to use: in band, or to open a socket. */
  const connect = async () => {
    let mine = (ws ||= {}); // holds the place while the token is fetched
    arm(drop, 10000);
    try {
      bearer ||= await (/** @type {any} */ (token).call?.() ?? token);
      if (mine != ws) return;
      if (up) return send({ type: "token", token: bearer });
      mine = ws = socket(url + "/v1/connect");
      ws.onopen = ws.onmessage = ws.onclose = (/** @type {any} */ { data, code }) => {
        if (mine != ws) return; // a socket that was given up
        if (data) {
          const frame = JSON.parse(data, (_, value) => Object.freeze(value));
          seenAt = Date.now();
          fresh = frame.fresh ?? fresh;
          if (frame.reconnect_ms) return drop("bye", Math.random() * frame.reconnect_ms); // only a bye has it
          if (frame.session) welcome = frame; // only a welcome has it
          // The token's last minute, by the gateway's own clock. The new one is answered with another welcome.
          if (frame.at / 1e6 > welcome.token_expires_at - 60) {
            bearer = 0;
            connect();
          }
          arm(drop, 2.5 * welcome.heartbeat_ms || 10000);
          deliver(frame);
        } else if (code) {
          if (code == 4401) bearer = 0;
          if (code > 4499) life = 0;
          drop(code);
        } else {
          up = 1;
          send({ type: "hello", token: bearer, topics, client: "planwire-js/0.2.0" });
        }
      };
    } catch (error) {
      up || drop(error + "");
    }
  };

  /** Something happened that is a reason to look at the connection now. @param {any} event */
  const wake = ({ type }) =>
    type == "pagehide"
      ? drop(type, 2e9) // until pageshow: an open socket would keep the page out of the back/forward cache
      : (ws && !(up && Date.now() - seenAt > 2.5 * welcome.heartbeat_ms)) || drop(type, Math.random() * 200);

  /** @param {string} name */
  const join = (name) => {
    const listeners = new Set();
    const waits = new Set();
    /** @type {any} */
    let shown = Object.freeze({ state: null, version: 0, status: "connecting", ...initial?.(name) });
    const first = shown;
    let policy = welcome.ack;
    let /** @type {any} */ confirmed; // on this connection
    let /** @type {any} */ denied;
    let /** @type {any} */ isUsable; // every listener took what is shown

    /** @param {string} type @param {number} [version] @param {any} [reason] */
    const report = (type, version, reason) => send({ type, topic: name, version, reason });

    /** Tells every listener. @param {any} reason */
    const show = (reason) => {
      isUsable = 1;
      shown = Object.freeze({
        ...shown,
        status: denied
          ? "denied"
          : confirmed && fresh
            ? "fresh"
            : !navigator.onLine
              ? "offline"
              : shown.state
                ? "stale"
                : "connecting",
        reason,
      });
      for (const listener of listeners)
        try {
          listener(shown);
        } catch (error) {
          console.error(error);
          isUsable = 0;
          report("nack", shown.version, error + "");
        }
    };

    report("subscribe", shown.version);
    return {
      /** @param {any} frame */
      handle(frame) {
        if (denied) return;
        let { type, version, code, reason, state } = frame;
        const isNew = version > shown.version || frame.reset;
        policy = frame.ack ?? (frame.share >= 0 ? frame : policy);
        denied = type == "gone" || code == "forbidden";
        if (denied || type == "stale") {
          confirmed = 0;
          show(reason || code);
        }
        if (type == "patch") {
          if (isNew && frame.base != shown.version) {
            report("subscribe");
            return report("nack", version, type);
          }
          state = merge(shown.state, frame.patch);
        }
        if (isNew || frame.session) for (const wait of waits) wait(version);
        if (isNew ? state !== undefined : version >= 0 ? version == shown.version : confirmed) {
          attempt = 0;
          confirmed = 1;
          shown = {
            ...shown,
            ...(isNew && { version, cause: frame.cause, state }),
            ...(fresh && { asOf: seenAt - (frame.at - frame.verified_at || 0) / 1000 }),
          };
          show(fresh ? (waits.size ? "pending" : "") : "gateway");
          const ack = () => setTimeout(() => version == shown.version && report("ack", version), Math.random() * policy.after_ms);
          if (isNew && isUsable && policy.share > Math.random())
            globalThis.document?.hidden == false ? requestAnimationFrame(ack) : ack();
        }
      },
      /** @param {any} listener */
      subscribe(listener) {
        const call = (/** @type {any} */ snapshot) => listener(snapshot); // the same function may subscribe twice
        listeners.add(call);
        call(shown);
        if (/** @type {any} */ (globalThis).addEventListener && life == null) {
          life = 1;
          ["pagehide", "pageshow", "visibilitychange", "online"].map((type) => addEventListener(type, wake));
          connect();
        }
        return () => listeners.delete(call);
      },
      getSnapshot: () => shown,
      getServerSnapshot: () => first,
      toJSON: () => shown.version, // in a hello

      expect: ({ after = shown.version, timeoutMs = 30000 } = {}) =>
        new Promise((resolve) => {
          const wait = (version = shown.version) =>
            version > after
              ? resolve(waits.delete(wait))
              : send({ type: "expect", topic: name, after, timeout_ms: timeoutMs });
          waits.add(wait);
          policy = { share: 1, after_ms: 0 }; // the answer is acked at once
          wait();
          setTimeout(() => waits.delete(wait) && resolve(show("expired")), timeoutMs);
        }),
      close() {
        report("unsubscribe");
        delete topics[name];
        for (name in topics) return;
        drop((life = null));
      },
    };
  };

  return { topic: (name) => (topics[name] ??= join(name)) };
};
