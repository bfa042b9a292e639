/**
 * For Svelte. A topic already is a store (`$topic.state.plan.name`); `part` is a store of a part of it.
 */
import { meter } from "./usage.js";

/**
 * A store of `select(snapshot)` of the topic; it notifies only when this value changes.
 * @template State, Value
 * @param {import("./planwire.js").Topic<State>} topic
 * @param {(snapshot: import("./planwire.js").Snapshot<State>) => Value} select
 * @returns {{subscribe: (run: (value: Value) => void) => () => void}}
 */
export const part = (topic, select) => ({
  subscribe(run) {
    /** @type {any} */
    let last = run;
    return topic.subscribe((snapshot) => {
      const next = select(snapshot);
      if (next !== last) run((last = next));
    });
  },
});

/**
 * A store of one meter: `useUsage(usage(client, "tenant:acme"), "api_calls")`.
 * @param {import("./planwire.js").Topic<import("./usage.js").Usage>} topic  of `usage(...)`
 * @param {string} name  of the meter
 */
export const useUsage = (topic, name) => part(topic, (snapshot) => meter(snapshot, name));
