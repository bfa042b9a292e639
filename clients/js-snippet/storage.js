/**
 * A first paint before the socket is open: the last state in this browser, or a state that the server put in the page.
 *
 * Role: `stored` is `planwire` with storage. Both kinds of first paint are `stale` until the gateway confirms or
 * replaces them, so a page never shows an old state as current. localStorage has one entry per subject, gateway and
 * topic, which is removed when the gateway denies the topic; call `forget` at logout. Without localStorage `stored`
 * works like `planwire`.
 */
import { planwire } from "./planwire.js";

/** @param {string | null} text */
const parse = (text) => JSON.parse(/** @type {string} */ (text), (_, value) => Object.freeze(value));

/** @template T @param {() => T} use @returns {T | undefined} the result; undefined if `use` throws */
const tolerant = (use) => {
  try {
    return use();
  } catch {}
};

/**
 * A first paint from `<script type="application/json" id="planwire">{"tenant:acme": {"version": 1, "state": {}}}</script>`:
 * pass it to `planwire` or `stored` as `initial`. The server fills the script from `GET /v1/state/TOPIC`.
 * @param {string} [id]
 * @returns {(topic: string) => import("./planwire.js").FirstPaint | undefined}
 */
export const injected =
  (id = "planwire") =>
  (topic) =>
    tolerant(() => {
      const found = parse(/** @type {any} */ (document.getElementById(id)).textContent)[topic];
      return found && { ...found, status: "stale", reason: "page" };
    });

/**
 * Removes all stored states of a subject. Call it at logout.
 * @param {string} subject
 */
export const forget = (subject) =>
  tolerant(() => {
    for (const key of Object.keys(localStorage)) {
      if (key.startsWith(`planwire ${subject} `)) localStorage.removeItem(key);
    }
  });

/**
 * A client that stores its topics from one visit to the next.
 * @param {import("./planwire.js").Options & {subject: string}} options  `subject`: who is signed in, as in the token
 * @returns {import("./planwire.js").Planwire}
 */
export const stored = ({ subject, initial, ...options }) => {
  /** @param {string} topic */
  const key = (topic) => `planwire ${subject} ${options.url} ${topic}`;
  /** @type {Record<string, import("./planwire.js").Topic>} */
  const topics = { __proto__: /** @type {any} */ (null) };
  const client = planwire({
    ...options,
    initial: (topic) => {
      const page = initial?.(topic);
      const memory = tolerant(() => parse(localStorage.getItem(key(topic))));
      return memory && (!page || memory.version > page.version) ? memory : page;
    },
  });

  /** Stores a fresh snapshot for the next visit. @param {string} name @param {import("./planwire.js").Snapshot} snapshot */
  const keep = (name, snapshot) =>
    tolerant(() => {
      if (snapshot.status == "denied") localStorage.removeItem(key(name));
      if (snapshot.status == "fresh") {
        localStorage.setItem(key(name), JSON.stringify({ ...snapshot, status: "stale", reason: "stored" }));
      }
    });

  /** The topic, stored from its first subscription on. @param {string} name @param {import("./planwire.js").Topic} topic */
  const remembered = (name, topic) => {
    let isKept = false;
    return {
      ...topic,
      subscribe: (/** @type {any} */ listener) => {
        if (!isKept) topic.subscribe((snapshot) => keep(name, snapshot));
        isKept = true;
        return topic.subscribe(listener);
      },
    };
  };

  return {
    topic: (name) => {
      const topic = client.topic(name);
      // The core makes a new topic after `close`.
      if (topics[name]?.getSnapshot != topic.getSnapshot) topics[name] = remembered(name, topic);
      return topics[name];
    },
  };
};
