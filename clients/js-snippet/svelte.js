/**
 * For Svelte. A topic is a store as it is (`$topic.state.plan.name`); this is for a part of it.
 */

/**
 * A store of what `select` makes of the topic's snapshot, silent while that stays the same.
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
