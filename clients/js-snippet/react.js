/**
 * A React hook (18 and later). Role: a topic as a value of a component, on the server too.
 */
import { useMemo, useSyncExternalStore } from "react";

/**
 * What `select` makes of the topic's snapshot; the component renders again only when that changes.
 * @template [State=any], [Value=import("./planwire.js").Snapshot<State>]
 * @param {import("./planwire.js").Topic<State>} topic
 * @param {(snapshot: import("./planwire.js").Snapshot<State>) => Value} [select]  default: the snapshot itself
 * @param {(one: Value, other: Value) => boolean} [isEqual]  for a `select` that makes new objects
 * @returns {Value}
 */
export const usePlanwire = (topic, select = (snapshot) => /** @type {any} */ (snapshot), isEqual = Object.is) => {
  const pick = useMemo(() => {
    /** @type {any} */
    let seen, value;
    return (/** @type {any} */ snapshot) => {
      if (snapshot != seen) {
        const next = select(snapshot);
        value = seen && isEqual(value, next) ? value : next;
        seen = snapshot;
      }
      return value;
    };
  }, [topic]);
  return useSyncExternalStore(
    topic.subscribe,
    () => pick(topic.getSnapshot()),
    () => pick(topic.getServerSnapshot()),
  );
};
