/**
 * React hooks (React 18 and later). Role: a topic as a value of a component, also during server rendering.
 */
import { useMemo, useSyncExternalStore } from "react";
import { meter } from "./usage.js";

/**
 * Returns `select(snapshot)` of the topic; the component renders again only when this value changes.
 * @template [State=any], [Value=import("./planwire.js").Snapshot<State>]
 * @param {import("./planwire.js").Topic<State>} topic
 * @param {(snapshot: import("./planwire.js").Snapshot<State>) => Value} [select]  default: the snapshot itself
 * @param {(one: Value, other: Value) => boolean} [isEqual]  for a `select` that returns a new object each time
 * @returns {Value}
 */
export const usePlanwire = (topic, select = (snapshot) => /** @type {any} */ (snapshot), isEqual = Object.is) => {
  const pick = useMemo(() => {
    /** @type {{snapshot: any, by: any, value: any} | undefined} the last selection */
    let last;
    return (/** @type {any} */ snapshot, /** @type {any} */ by) => {
      if (!last || snapshot != last.snapshot || by != last.by) {
        const value = by(snapshot);
        last = { snapshot, by, value: last && isEqual(last.value, value) ? last.value : value };
      }
      return last.value;
    };
  }, [topic]);
  return useSyncExternalStore(
    topic.subscribe,
    () => pick(topic.getSnapshot(), select),
    () => pick(topic.getServerSnapshot(), select),
  );
};

/**
 * Returns one meter: `const { used, limit, fresh } = useUsage(usage(client, "tenant:acme"), "api_calls")`.
 * @param {import("./planwire.js").Topic<import("./usage.js").Usage>} topic  of `usage(...)`, the same at each rendering
 * @param {string} name  of the meter
 * @returns {Readonly<import("./usage.js").Meter>}
 */
export const useUsage = (topic, name) => usePlanwire(topic, (snapshot) => meter(snapshot, name));
