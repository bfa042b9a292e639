import assert from "node:assert/strict";
import { afterEach, beforeEach, it } from "node:test";
import { StrictMode, createElement } from "react";
import { renderToString } from "react-dom/server";
import { effectScope } from "vue";
import { useUsage as useReact } from "../react.js";
import { usage } from "../usage.js";
import { useUsage as useVue } from "../vue.js";
import { TOPIC, WELCOME, open, settle, snapshot } from "./fakes.js";

/** @type {any} */
let world;
/** @type {any} */
let acme;
beforeEach(() => {
  world = open();
  acme = usage(world.client, TOPIC);
});
afterEach(() => world.close());

const counted = (version, entitlements, used, limit) =>
  snapshot(
    version,
    { base: 0, entitlements, meters: { seats: { kind: "allocated", used, reserved: 0, limit, remaining: limit - used, status: "ok" } } },
    { topic: "usage:acme" },
  );

it("renders on a server without a socket, and shows no number", () => {
  const Seats = () => {
    const { used, status, fresh } = useReact(acme, "seats");
    return createElement("p", null, `${used ?? "…"} ${status} ${fresh}`);
  };
  for (let request = 0; request < 2; request++)
    assert.equal(renderToString(createElement(StrictMode, null, createElement(Seats))), "<p>… unknown false</p>");
  assert.equal(world.sockets.length, 0);
  // A snapshot of its own for each rendering would render for ever.
  assert.equal(acme.getServerSnapshot(), acme.getServerSnapshot());
});

it("follows a component of Vue: shown live, released with it, and current when it is back", async () => {
  const scope = effectScope();
  const seats = /** @type {any} */ (scope.run(() => useVue(acme, "seats")));
  assert.deepEqual(seats.value, { status: "unknown", fresh: false });
  await settle();
  world.socket.accept();
  world.socket.receive(WELCOME, snapshot(5, {}), counted(9, 5, 3, 10));
  assert.deepEqual([seats.value.used, seats.value.limit, seats.value.fresh], [3, 10, true]);
  world.socket.receive(snapshot(6, {}));
  assert.deepEqual([seats.value.used, seats.value.limit, seats.value.fresh], [3, 10, false]);
  scope.stop();
  world.socket.receive(counted(10, 6, 4, 20));
  assert.equal(seats.value.used, 3);

  const again = effectScope();
  const back = /** @type {any} */ (again.run(() => useVue(acme, "seats")));
  assert.deepEqual([back.value.used, back.value.limit, back.value.fresh], [4, 20, true]);
  assert.equal(world.sockets.length, 1);
  again.stop();
});
