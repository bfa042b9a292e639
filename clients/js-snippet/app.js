/**
 * One application of a tenant that owns several. Role: a topic whose state is that application's, for everything that
 * takes a topic: `usePlanwire(app(topic, "crm"))`, `provider(app(topic, "crm"))`, `define(app(topic, "crm"))`.
 */

/** @typedef {import("./planwire.js").Snapshot} Snapshot */

/**
 * @template [State=import("./planwire.js").Application]
 * @param {import("./planwire.js").Topic} topic  of the tenant
 * @param {string} name  of the application in the catalog
 * @returns {import("./planwire.js").Topic<State>} closing it closes `topic`
 */
export const app = (topic, name) => {
  /** @type {WeakMap<object, Readonly<Snapshot>>} The snapshot of a topic's snapshot: an equal one must be the same. */
  const known = new WeakMap();
  /** @param {Readonly<Snapshot>} snapshot */
  const within = (snapshot) => {
    const found = known.get(snapshot) ?? part(snapshot, name);
    known.set(snapshot, found);
    return found;
  };
  return {
    ...topic,
    subscribe: (listener) => topic.subscribe((snapshot) => listener(within(snapshot))),
    getSnapshot: () => within(topic.getSnapshot()),
    getServerSnapshot: () => within(topic.getServerSnapshot()),
  };
};

/** @param {Readonly<Snapshot>} snapshot @param {string} name @returns {Readonly<Snapshot>} */
const part = (snapshot, name) => {
  const { state, status } = snapshot;
  if (state == null) return snapshot;
  if (state.apps != null && Object.hasOwn(state.apps, name)) return Object.freeze({ ...snapshot, state: state.apps[name] });
  // The state does not say what the application has. That is no "nothing", so it is never shown as current.
  return Object.freeze({ ...snapshot, state: null, ...(status == "fresh" && { status: "stale", reason: "no app" }) });
};
