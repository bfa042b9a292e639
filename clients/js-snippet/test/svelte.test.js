import assert from "node:assert/strict";
import { it } from "node:test";
import { part } from "../svelte.js";

it("is told of its part when that changes, and of nothing else", () => {
  /** @type {any} */
  let tell;
  let ended = 0;
  /** @type {any} */
  const topic = {
    subscribe: (run) => ((tell = run), run({ state: { plan: "free" }, version: 1 }), () => (ended += 1)),
  };
  const seen = [];
  const stop = part(topic, ({ state }) => state?.plan).subscribe((plan) => seen.push(plan));
  assert.deepEqual(seen, ["free"]);
  tell({ state: { plan: "free", seats: 2 }, version: 2 });
  assert.deepEqual(seen, ["free"]);
  tell({ state: { plan: "pro", seats: 2 }, version: 3 });
  assert.deepEqual(seen, ["free", "pro"]);
  tell({ state: null, version: 4 });
  assert.deepEqual(seen, ["free", "pro", undefined]);
  stop();
  assert.equal(ended, 1);
});

it("tells each subscriber for itself, also where the part is nothing yet", () => {
  /** @type {any} */
  const topic = { subscribe: (run) => (run({ state: null }), () => {}) };
  const store = part(topic, ({ state }) => state?.plan);
  const seen = [];
  store.subscribe((plan) => seen.push(plan));
  store.subscribe((plan) => seen.push(plan));
  assert.deepEqual(seen, [undefined, undefined]);
});
