/**
 * Vue composables (Vue 3.2 and later). Role: a topic as a ref, released with its effect scope.
 */
import { onScopeDispose, shallowRef } from "vue";
import { meter } from "./usage.js";

/**
 * A ref of `select(snapshot)` of the topic.
 * @template [State=any], [Value=import("./planwire.js").Snapshot<State>]
 * @param {import("./planwire.js").Topic<State>} topic
 * @param {(snapshot: import("./planwire.js").Snapshot<State>) => Value} [select]  default: the snapshot itself
 * @returns {Readonly<import("vue").ShallowRef<Value>>}
 */
export const usePlanwire = (topic, select = (snapshot) => /** @type {any} */ (snapshot)) => {
  const value = shallowRef(select(topic.getSnapshot()));
  onScopeDispose(topic.subscribe((snapshot) => (value.value = select(snapshot))));
  return value;
};

/**
 * A ref of one meter: `useUsage(usage(client, "tenant:acme"), "api_calls")`.
 * @param {import("./planwire.js").Topic<import("./usage.js").Usage>} topic  of `usage(...)`
 * @param {string} name  of the meter
 * @returns {Readonly<import("vue").ShallowRef<Readonly<import("./usage.js").Meter>>>}
 */
export const useUsage = (topic, name) => usePlanwire(topic, (snapshot) => meter(snapshot, name));
