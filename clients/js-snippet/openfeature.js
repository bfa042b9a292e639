/**
 * An OpenFeature web provider. Role: a topic's features, limits and modules as flags, with the events that the SDK's
 * own bindings (React, Angular, ...) react to. It imports nothing; pass it to `OpenFeature.setProvider`.
 *
 * A flag key is a path into the state (`limits.seats`), or the name of a feature (`sso`).
 * The first state makes it ready. Not current: STALE, current again: READY. A new version: CONFIGURATION_CHANGED
 * without a list of flags. A list would have to name every changed path: the SDK's hooks ignore flags outside it.
 */

/** @type {Partial<Record<import("./planwire.js").Status, string>>} a topic's status -> the event of the SDK */
const EVENTS = { fresh: "PROVIDER_READY", denied: "PROVIDER_ERROR" };

/**
 * @param {import("./planwire.js").Topic} topic
 * @returns a Provider of @openfeature/web-sdk
 */
export const provider = (topic) => {
  let handlers = /** @type {Record<string, Set<Function>>} */ ({});
  /** @param {string} name */
  const of = (name) => (handlers[name] ??= new Set());
  /** @param {string} name @param {object} [details] */
  const emit = (name, details) => of(name).forEach((handler) => handler(details));
  let /** @type {any} */ stop;
  let /** @type {any} */ last;

  /** A member of the state's JSON, never one that every object inherits. @param {any} part @param {string} name */
  const member = (part, name) => (part != null && Object.hasOwn(part, name) ? part[name] : undefined);

  /** @param {string} kind */
  const resolve = (kind) => (/** @type {string} */ key, /** @type {any} */ defaultValue) => {
    const { state, status } = topic.getSnapshot();
    const value = member(state?.features, key) ?? key.split(".").reduce(member, state);
    // A feature that is absent is off.
    if (value == null) return { value: defaultValue, reason: "DEFAULT" };
    return typeof value == kind
      ? { value, reason: status == "fresh" ? "TARGETING_MATCH" : "STALE" }
      : { value: defaultValue, reason: "ERROR", errorCode: /** @type {any} */ ("TYPE_MISMATCH") };
  };

  /** Emits the changes since the last snapshot. @param {import("./planwire.js").Snapshot} snapshot */
  const emitChanges = ({ version, status }) => {
    if (version != last.version) emit("PROVIDER_CONFIGURATION_CHANGED");
    if (status != last.status) emit(EVENTS[status] ?? "PROVIDER_STALE");
  };

  /** Emits STALE after the first state if it is not fresh: the SDK reports READY even for a state from storage. */
  const emitStale = () => {
    const { status } = last;
    setTimeout(() => status != "fresh" && last.status == status && emit("PROVIDER_STALE"));
  };

  return {
    metadata: { name: "planwire" },
    runsOn: /** @type {const} */ ("client"),
    events: /** @type {any} */ ({
      addHandler: (/** @type {string} */ name, /** @type {Function} */ handler) => of(name).add(handler),
      removeHandler: (/** @type {string} */ name, /** @type {Function} */ handler) => of(name).delete(handler),
      removeAllHandlers: () => (handlers = {}),
      getHandlers: (/** @type {string} */ name) => [...of(name)],
      emit,
    }),
    initialize: () =>
      /** @type {Promise<void>} */ (
        new Promise((ready, fail) => {
          stop = topic.subscribe((snapshot) => {
            const { status, state } = snapshot;
            const isFirst = !last;
            if (status == "denied") fail(Error(status));
            if (last) emitChanges(snapshot);
            if (!state && status != "fresh") return;
            last = snapshot;
            ready();
            if (isFirst) emitStale();
          });
        })
      ),
    onClose: async () => stop?.(),
    resolveBooleanEvaluation: resolve("boolean"),
    resolveStringEvaluation: resolve("string"),
    resolveNumberEvaluation: resolve("number"),
    resolveObjectEvaluation: resolve("object"),
  };
};
