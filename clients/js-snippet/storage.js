/**
 * A first paint before the socket is open: what this browser saw last, or what the server put into the page.
 *
 * Role: `stored` is `planwire` with a memory. Both kinds of first paint are shown as `stale` until the gateway confirms
 * or replaces them, so a page never passes old news off as current. It holds one entry per subject, gateway and topic
 * in localStorage, removed when the gateway denies the topic; call `forget` at logout. Without localStorage it is
 * `planwire` alone.
 */
import { planwire } from "./planwire.js";

/** @param {string | null} text */
const parse = (text) => JSON.parse(/** @type {string} */ (text), (_, value) => Object.freeze(value));

/** @template T @param {() => T} use @returns {T | undefined} the answer; nothing when the browser refuses */
const tolerant = (use) => {
  try {
    return use();
  } catch {}
};

/**
 * A first paint from `<script type="application/json" id="planwire">{"tenant:acme": {"version": 1, "state": {}}}</script>`:
 * hand it to `planwire` or `stored` as `initial`. The server fills it from `GET /v1/state/TOPIC`.
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
 * Removes what is stored of a subject. Call it at logout.
 * @param {string} subject
 */
export const forget = (subject) =>
  tolerant(() => {
    for (const key of Object.keys(localStorage)) {
      if (key.startsWith(`planwire ${subject} `)) localStorage.removeItem(key);
    }
  });

/**
 * A client that remembers its topics from one visit to the next.
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

  /** Keeps what is fresh, as it will be shown at the next visit. @param {string} name @param {import("./planwire.js").Snapshot} snapshot */
  const keep = (name, snapshot) =>
    tolerant(() => {
      if (snapshot.status == "denied") localStorage.removeItem(key(name));
      if (snapshot.status == "fresh") {
        localStorage.setItem(key(name), JSON.stringify({ ...snapshot, status: "stale", reason: "stored" }));
      }
    });

  /** A topic that is kept from the first subscription on. @param {string} name @param {import("./planwire.js").Topic} topic */
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
      // The core makes a new one after `close`.
      if (topics[name]?.getSnapshot != topic.getSnapshot) topics[name] = remembered(name, topic);
      return topics[name];
    },
  };
};
