/**
 * Planwire in the browser: one socket, any number of topics, and snapshots that say whether they are current.
 *
 * Role: the last step of webhook -> commit -> gateway -> socket -> screen. The client speaks `planwire.v1`, keeps the
 * newest snapshot of each topic and calls its listeners. tabs.js, fallback.js, storage.js and the framework bindings
 * build on it through the options `socket` and `initial`. The import does not use `window`, so it works on a server.
 *
 * One long file, so that a page can load it as a single script with one integrity hash. In order: types, merge patch,
 * reconnect policy, one topic, the connection, topic names. State lives in closures, where a minifier can shorten names.
 */

/**
 * @typedef {"connecting" | "fresh" | "stale" | "offline" | "denied"} Status
 * @typedef {{source?: string, event_id?: string, event_type?: string, occurred_at?: string, received_at?: string}} Cause
 */

/**
 * A topic's state and status. Frozen, the state included; the same object until something changes.
 * @template [State=any]
 * @typedef {object} Snapshot
 * @property {State | null} state  the newest state; null: there is none, or none has arrived yet
 * @property {number} version      microseconds since 1970, strictly rising; 0: no state
 * @property {Status} status       `fresh` only while a gateway that hears every change confirms this state
 * @property {number} [asOf]       ms since 1970 by this machine's clock, the last moment `state` was known to be the
 *                                 newest; absent: never
 * @property {string | number} [reason]  why it is not fresh: `silence`, `gateway` (it does not hear every change), `bye`,
 *                                 a close code, an event's name, an error, `revoked`, ...; on a fresh one `pending`,
 *                                 `expired` (see `expect`) or empty
 * @property {Cause} [cause]       what led to this version
 */

/**
 * The state of `tenant:ID` as billing computes it: `topic<Entitlements>("tenant:acme")`. Absent fields do not apply.
 * Times are RFC 3339. The server's documentation says what each status means (`docs/providers.md`).
 * @typedef {object} Entitlements
 * @property {{key: string, name: string, rank: number}} plan
 * @property {"none" | "incomplete" | "trialing" | "active" | "past_due" | "unpaid" | "paused" | "canceled"} status
 * @property {Record<string, true>} features
 * @property {Record<string, number | "unlimited">} limits
 * @property {Record<string, string>} modules
 * @property {{action: "cancel" | "pause" | "resume" | "change_plan", plan?: string, effective_at: string,
 *   resume_at?: string, source: "provider" | "app", overdue: boolean, problem?: string}} [scheduled]
 * @property {{reason: string, since: string}} [pending]
 * @property {{plan: string, trial?: true, ends_at?: string}} [grant]
 * @property {{starts_at: string, ends_at: string}} [period]
 * @property {string} [trial_ends_at]
 * @property {string} [grace_ends_at]
 * @property {string} [valid_until]  the next time at which the state may change without an event
 * @property {Record<string, Application>} [apps]  of a tenant that owns several; `app.js` has one as a topic
 */

/**
 * What a tenant has of one application. Without a plan nothing is bought, and there is no default plan.
 * @typedef {Omit<Entitlements, "plan" | "apps"> & {plan?: Entitlements["plan"]}} Application
 */

/**
 * A live topic. `subscribe` is the Svelte store contract; `getSnapshot` suits React's useSyncExternalStore.
 * @template [State=any]
 * @typedef {object} Topic
 * @property {(listener: (snapshot: Readonly<Snapshot<State>>) => void) => () => void} subscribe
 *   calls back at once, then on every change; the first call connects. A listener that throws is reported to the
 *   gateway and does not stop the others.
 * @property {() => Readonly<Snapshot<State>>} getSnapshot
 * @property {() => Readonly<Snapshot<State>>} getServerSnapshot  the snapshot that this page started with
 * @property {(options?: {after?: number, timeoutMs?: number, checkout?: string}) => Promise<boolean>} expect
 *   "I just paid": true once a version newer than `after` (default: the shown version) is shown; false if none comes
 *   within `timeoutMs` (default 30000, at most 120000). With `checkout`, the provider's id of the checkout (`txn_...`,
 *   `cs_...`), it is read there if no webhook comes, and it is true also if the state contains the purchase already.
 *   Concurrent calls with the same `checkout`, or without one with the same `after`, share one promise. Never rejects.
 * @property {() => void} close  leaves the topic; the last topic closes the socket
 */

/**
 * The part of a WebSocket that the client uses; tabs.js and fallback.js have their own. No events after `close`.
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
 *   the function throws, it is called again later.
 * @property {(url: string) => Socket} [socket]  how to connect; default: a WebSocket
 * @property {(topic: string) => FirstPaint | null | undefined} [initial]  what to show until the gateway answers
 */

/** @typedef {{topic: <State = any>(name: string) => Topic<State>}} Planwire */

/** Whether a value is an object with members: not an array, not null. @param {any} value */
const isObject = (value) => value && typeof value == "object" && !Array.isArray(value);

/**
 * The target after an RFC 7396 merge patch. Neither argument changes; untouched branches keep their identity.
 *
 * It reads own members only, and defines members instead of assigning them: a state may have keys such as `__proto__`.
 * @param {any} target
 * @param {any} patch
 * @returns {any}
 */
const merge = (target, patch) => {
  if (!isObject(patch)) return patch;
  const members = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) members.delete(key);
    else members.set(key, merge(members.get(key), value));
  }
  return Object.freeze(Object.fromEntries(members));
};

// The reconnect policy: whether, when and with which token to connect again. The code below only applies it.

/** Time for a token, a socket and its first frame, ms. */
const CONNECT_TIMEOUT_MS = 10_000;
/** A connection without a frame for this many heartbeats is dead. */
const SILENT_HEARTBEATS = 2.5;
/** A token is replaced when it has less than this left, by the gateway's clock, s. */
const RENEW_TOKEN_S = 60;
/** A page in the back/forward cache connects when it is shown again, not by the clock, ms. */
const UNTIL_SHOWN_MS = 2e9;
/** The close code of a refused token: fetch another. */
const TOKEN_REFUSED = 4401;
/** Close codes from here on are terminal (docs/protocol.md). */
const TERMINAL = 4500;
/** Maximum random delay after the page wakes or the network is back, so that tabs do not all connect at once, ms. */
const WAKE_MS = 200;
/** Bounds of the backoff until a welcome brings the gateway's bounds. */
const BACKOFF = { min_ms: 500, max_ms: 30_000 };

/** A random delay below a bound, so that many clients do not connect at once. @param {number} ms */
const jitter = (ms) => Math.random() * ms;

/** The ack policy for the answer to an `expect`: somebody is waiting for it. */
const AT_ONCE = { share: 1, after_ms: 0 };

/**
 * One topic: the shown snapshot, its listeners, and the calls of `expect` that wait for a newer version.
 * @param {string} name
 * @param {FirstPaint | null | undefined} paint
 * @param {{share: number, after_ms: number}} ackPolicy  which versions to ack (docs/protocol.md, Acks)
 * @param {(frame: object) => void} send  to the gateway
 * @param {() => void} start  connects, unless the client has already
 * @param {(name: string) => void} leave  forgets the topic
 */
const createTopic = (name, paint, ackPolicy, send, start, leave) => {
  /** @type {Set<(snapshot: Readonly<Snapshot>) => void>} */
  const listeners = new Set();
  /**
   * The checkout or `after` -> its wait. `check` ends it if the version is newer than `after`, and returns whether. Else
   * it asks the gateway: if `asks` is set and `after` is known, or if the version is the first confirmed one.
   * @type {Map<number | string, {promise: Promise<boolean>, check: (version: number, asks?: boolean) => boolean}>}
   */
  const waits = new Map();
  /**
   * The gateway's answer about the shown snapshot. unknown: none on this connection yet · fresh: it is the newest ·
   * stale: it was the newest, but the gateway does not hear every change · denied: the topic is denied for good ·
   * closed: the page has left the topic.
   * @type {"unknown" | "fresh" | "stale" | "denied" | "closed"}
   */
  let standing = "unknown";
  let shown = /** @type {Readonly<Snapshot>} */ (
    Object.freeze({ state: null, version: 0, status: "connecting", ...paint })
  );
  const first = shown;

  /** @param {string} type @param {number} [version] @param {string} [reason] */
  const report = (type, version, reason) => send({ type, topic: name, version, reason });

  /** @param {any} state @returns {Status} */
  const statusWith = (state) => {
    if (standing == "denied" || standing == "fresh") return standing;
    if (!navigator.onLine) return "offline";
    return state ? "stale" : "connecting";
  };

  /** Calls every listener with the new snapshot. Returns whether none threw. @param {any} reason @param {any} [changes] */
  const show = (reason, changes) => {
    const next = { ...shown, ...changes, reason };
    next.status = statusWith(next.state);
    shown = Object.freeze(next);
    let isTaken = true;
    for (const listener of listeners) {
      try {
        listener(shown);
      } catch (error) {
        console.error(error);
        report("nack", shown.version, error + "");
        isTaken = false;
      }
    }
    return isTaken;
  };

  /** Shows a confirmed snapshot. Returns whether no listener threw. @param {any} frame @param {object} [changes] */
  const confirm = ({ at, verified_at, fresh }, changes) => {
    standing = fresh ? "fresh" : "stale";
    if (!fresh) return show("gateway", changes);
    // Age of the gateway's verification, by its own clock. A frame without these times is from just now.
    return show(waits.size ? "pending" : "", { ...changes, asOf: Date.now() - (at - verified_at || 0) / 1000 });
  };

  /** Acks a version once it is painted, unless a newer one replaces it. @param {number} version @param {number} after_ms */
  const ack = (version, after_ms) => {
    const later = () => setTimeout(() => version == shown.version && report("ack", version), jitter(after_ms));
    // A hidden page does not paint.
    if (globalThis.document?.hidden == false) requestAnimationFrame(later);
    else later();
  };

  /** Checks all waits. Returns whether one has ended. @param {number} version @param {boolean} [asks] */
  const checkWaits = (version, asks) => [...waits.values()].map(({ check }) => check(version, asks)).includes(true);

  /** Shows the frame's version, if the frame brings a state for it. Returns whether it does. @param {any} frame */
  const advance = (frame) => {
    let { type, version, cause, state } = frame;
    if (type == "patch") {
      if (frame.base != shown.version) {
        report("subscribe"); // for the whole state
        return report("nack", version, type);
      }
      state = merge(shown.state, frame.patch);
    }
    if (state === undefined) return;
    const { share, after_ms } = checkWaits(version) ? AT_ONCE : ackPolicy;
    const isTaken = confirm(frame, { version, cause, state });
    if (isTaken && share > Math.random()) ack(version, after_ms);
    return true;
  };

  /** Ends the confirmation, for now or for good. @param {"unknown" | "denied"} next @param {string | number} [reason] */
  const withdraw = (next, reason) => {
    if (standing == "denied") return;
    standing = next;
    show(reason);
  };

  report("subscribe", shown.version);
  return {
    /** Handles a frame. Returns whether it confirms the shown snapshot. @param {any} frame */
    handle: (frame) => {
      const { type, version } = frame;
      if (standing == "denied") return;
      if (type == "gone" || frame.code == "forbidden") return withdraw("denied", frame.reason || frame.code);
      if (type == "ack_policy") ackPolicy = frame;
      if (type == "welcome") {
        ackPolicy = frame.ack ?? ackPolicy;
        checkWaits(shown.version, true);
      }
      waits.get(frame.checkout)?.check(Infinity, true); // the state contains it
      if (version > shown.version || frame.reset) return advance(frame);
      // A frame with a version confirms that version only; a frame without one keeps an earlier confirmation.
      const isConfirmed = version >= 0 ? version == shown.version : standing != "unknown";
      if (isConfirmed) {
        checkWaits(version);
        confirm(frame);
      }
      return isConfirmed;
    },

    withdraw,

    /** The page's view of the topic. @type {Topic} */
    api: {
      subscribe: (listener) => {
        const call = (/** @type {Readonly<Snapshot>} */ snapshot) => listener(snapshot); // one function may subscribe twice
        listeners.add(call);
        call(shown);
        start();
        return () => listeners.delete(call);
      },
      getSnapshot: () => shown,
      getServerSnapshot: () => first,
      // A page that comes back from a checkout may show no state yet, or an old one: it waits from the first confirmed one.
      expect: ({ checkout, after = checkout && standing == "unknown" ? NaN : shown.version, timeoutMs = 30_000 } = {}) => {
        const key = checkout ?? after;
        const wait = waits.get(key) ?? /** @type {any} */ ({});
        return (wait.promise ??= new Promise((resolve) => {
          wait.check = (/** @type {number} */ version, /** @type {boolean} */ asks) => {
            if (version > after) resolve(waits.delete(key));
            else if (!asks != after >= 0) {
              if (!asks) after = version;
              send({ type: "expect", topic: name, after, timeout_ms: timeoutMs, checkout });
            }
            return version > after;
          };
          waits.set(key, wait);
          wait.check(shown.version, true);
          setTimeout(() => {
            if (waits.get(key) != wait) return;
            waits.delete(key);
            show("expired");
            resolve(false);
          }, timeoutMs);
        }));
      },
      close: () => {
        if (standing == "closed") return;
        standing = "closed";
        report("unsubscribe");
        leave(name);
      },
    },
  };
};

/**
 * A client of one gateway. It connects on the first subscription to a topic, and never outside a browser.
 * @param {Options} options
 * @returns {Planwire}
 */
export const planwire = ({ url, token, initial, socket = (to) => new WebSocket(to, "planwire.v1") }) => {
  /** @type {Map<string, ReturnType<typeof createTopic>>} */
  const topics = new Map();
  /**
   * idle: no subscription · waiting: for the next attempt · opening: fetches a token or opens a socket ·
   * open: hello is sent · denied: the gateway refused for good.
   * @type {"idle" | "waiting" | "opening" | "open" | "denied"}
   */
  let phase = "idle";
  /** @type {Socket | undefined} the latest, perhaps closed */
  let ws;
  /** Rises when a connection is abandoned. Its late events (a token, a frame, a close) are ignored. */
  let generation = 0;
  /** Retries since a topic was last confirmed. An open socket alone does not reset them. */
  let retries = 0;
  /** @type {any} one timer: the next attempt while waiting, else the limit for silence */
  let timer;
  /** @type {string | null} */
  let bearer = null;
  /** @type {number} the close code of a denial */
  let denial;
  /** @type {any} the latest */
  let welcome = { reconnect: BACKOFF, ack: { share: 0 } };
  /** @type {any} the welcome whose token is being replaced; the gateway answers the new token with another welcome */
  let renewed;
  let isFresh = false; // whether the gateway hears every change
  let seenAt = 0; // time of the gateway's last frame, ms since 1970 by this machine's clock

  const silenceMs = () => SILENT_HEARTBEATS * welcome.heartbeat_ms || CONNECT_TIMEOUT_MS;
  /** Fetches a token, if there is none. */
  const needToken = async () => (bearer ||= typeof token == "function" ? await token() : token);

  /** A handler that ignores events after the current connection is abandoned. @param {(event: any) => void} handle */
  const whileCurrent = (handle) => {
    const mine = generation;
    return (/** @type {any} */ event) => mine == generation && handle(event);
  };

  /** Loses the connection if no frame comes within this time. @param {number} ms */
  const setDeadline = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(() => lose("silence"), ms);
  };

  /** Sends a frame, if the socket is open; else drops it: the next hello covers it. @param {object} frame */
  const send = (frame) => {
    if (phase == "open") ws?.send(JSON.stringify(frame));
  };

  /** Closes the socket and updates all topics. @param {"idle" | "waiting" | "denied"} next @param {string | number} [reason] */
  const disconnect = (next, reason) => {
    phase = next;
    generation++;
    clearTimeout(timer);
    ws?.close();
    for (const [, topic] of topics) topic.withdraw(denial ? "denied" : "unknown", reason);
  };

  /** Drops the connection, and reconnects after a delay. @param {string | number} reason @param {number} [delayMs] */
  const lose = (reason, delayMs) => {
    disconnect("waiting", reason);
    const { min_ms, max_ms } = welcome.reconnect;
    // A listener may have closed the last topic meanwhile.
    if (phase != "waiting") return;
    // Full jitter below a bound that doubles each time.
    timer = setTimeout(connect, delayMs ?? jitter(Math.min(max_ms, min_ms * 2 ** retries++)));
  };

  const onOpen = () => {
    phase = "open";
    seenAt = Date.now();
    /** @type {Record<string, number>} */
    const versions = {};
    for (const [name, topic] of topics) versions[name] = topic.api.getSnapshot().version;
    send({ type: "hello", token: bearer, topics: versions, client: "planwire-js/0.2.0" });
  };

  /** @param {{data: string}} event */
  const onMessage = ({ data }) => {
    const frame = JSON.parse(data, (_, value) => Object.freeze(value));
    seenAt = Date.now();
    isFresh = frame.fresh ?? isFresh;
    if (frame.type == "bye") return lose("bye", jitter(frame.reconnect_ms));
    if (frame.type == "welcome") welcome = frame;
    if (welcome != renewed && frame.at / 1e6 > welcome.token_expires_at - RENEW_TOKEN_S) renewToken();
    setDeadline(silenceMs());
    for (const [name, topic] of topics) {
      if ((frame.topic ?? name) == name && topic.handle({ ...frame, fresh: isFresh })) retries = 0;
    }
  };

  /** @param {{code: number}} event */
  const onClose = ({ code }) => {
    if (code == TOKEN_REFUSED) bearer = null;
    if (code < TERMINAL) return lose(code);
    denial = code;
    disconnect("denied", code);
  };

  const connect = () => {
    phase = "opening";
    setDeadline(CONNECT_TIMEOUT_MS);
    needToken()
      .then(
        whileCurrent(() => {
          ws = socket(url + "/v1/connect");
          ws.onopen = whileCurrent(onOpen);
          ws.onmessage = whileCurrent(onMessage);
          ws.onclose = whileCurrent(onClose);
        }),
      )
      .catch(whileCurrent((error) => lose(error + "")));
  };

  /** Sends a new token on the open socket; the gateway answers with a welcome. After a failure the next heartbeat retries. */
  const renewToken = () => {
    renewed = welcome;
    bearer = null;
    needToken().then(
      whileCurrent(() => send({ type: "token", token: bearer })),
      () => (renewed = null),
    );
  };

  /** Checks the connection when the page hides, shows or goes online. @param {{type: string}} event */
  const onPageEvent = ({ type }) => {
    if (phase == "idle" || phase == "denied") return;
    // An open socket would keep the page out of the back/forward cache.
    if (type == "pagehide") return lose(type, UNTIL_SHOWN_MS);
    const isSilent = phase == "open" && Date.now() - seenAt > silenceMs();
    if (isSilent || phase == "waiting") lose(type, jitter(WAKE_MS));
  };

  /** Connects, unless the client has already. Does nothing outside a browser. */
  const start = () => {
    if (phase != "idle" || !(/** @type {any} */ (globalThis).addEventListener)) return;
    for (const type of ["pagehide", "pageshow", "visibilitychange", "online"]) addEventListener(type, onPageEvent);
    connect();
  };

  /** Forgets a topic; the last topic closes the socket. @param {string} name */
  const leave = (name) => {
    topics.delete(name);
    if (!topics.size) disconnect("idle");
  };

  return {
    topic: (name) => {
      const topic = topics.get(name) ?? createTopic(name, initial?.(name), welcome.ack, send, start, leave);
      topics.set(name, topic);
      if (denial) topic.withdraw("denied", denial);
      return topic.api;
    },
  };
};

/**
 * The name of the topic of one of your ids: `topic("tenant", "auth0|5f1c")` is `tenant:auth0%7C5f1c`.
 *
 * Every byte of the id except `A-Z a-z 0-9 . _ ~ @ -` is percent-encoded, so different ids have different topics.
 * @param {string} kind  such as tenant or user
 * @param {string | number} id  as your application has it, not encoded; at most 128 bytes of UTF-8
 * @param {string} [env]  live is written without a prefix
 * @returns {string}
 * @throws {TypeError} the id names nobody, such as `undefined` or an empty text, or it is too long
 */
const topicName = (kind, id, env = "live") => {
  // Blank, or what programs write for a missing value.
  const namesNobody = /^(?:\s*|undefined|null|\[object Object\]|NaN|None)$/;
  const form = /^(?:[a-z][a-z0-9_-]{0,31}\/)?[a-z][a-z0-9_-]{0,31}:(?:[\w.~@-]|%..){1,128}$/;
  const isId = typeof id == "string" ? !namesNobody.test(id) : Number.isSafeInteger(id);
  const hex = (/** @type {string} */ char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`;
  const encoded = isId && encodeURIComponent(id).replace(/[!'()*]/g, hex).replaceAll("%40", "@");
  const name = `${env == "live" ? "" : `${env}/`}${kind}:${encoded}`;
  if (encoded && form.test(name)) return name;
  const given = typeof id == "string" ? JSON.stringify(id.slice(0, 60)) : String(id);
  throw new TypeError(`${kind} ${given} is not a topic: give its id, of at most 128 bytes`);
};
export { topicName as topic };
