import assert from "node:assert/strict";
import { afterEach, beforeEach, it } from "node:test";
import { part, useUsage } from "../svelte.js";
import { meter, usage } from "../usage.js";
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

const SEATS = { kind: "allocated", used: 8, reserved: 0, limit: 10, remaining: 2, status: "near" };
const CALLS = {
  kind: "consumable", used: 3, reserved: 1, limit: "unlimited", remaining: "unlimited", status: "ok",
  period: { starts_at: "2026-11-01T00:00:00.000Z", ends_at: "2026-12-01T00:00:00.000Z" },
};
const counted = (version, entitlements, meters) =>
  snapshot(version, { base: 0, entitlements, meters }, { topic: "usage:acme" });

const connect = async (...frames) => {
  const seen = [];
  const stop = acme.subscribe((shown) => seen.push(shown));
  await settle();
  world.socket.accept();
  world.socket.receive(WELCOME, ...frames);
  return { seen, stop };
};
const seats = () => meter(acme.getSnapshot(), "seats");

it("reads the meters of a tenant beside its entitlements, over one socket", async () => {
  const { seen } = await connect(snapshot(5, { limits: { seats: 10 } }), counted(9, 5, { seats: SEATS, api_calls: CALLS }));
  assert.equal(world.sockets.length, 1);
  assert.deepEqual(world.socket.ofType("hello")[0].topics, { "tenant:acme": 0, "usage:acme": 0 });
  assert.equal(seen.at(-1), acme.getSnapshot());
  const { kind, ...rest } = SEATS;
  assert.deepEqual(seats(), { ...rest, fresh: true, resetsAt: undefined });
  assert.equal(meter(acme.getSnapshot(), "api_calls").resetsAt, "2026-12-01T00:00:00.000Z");
  assert.equal(acme.getSnapshot().version, 9);
});

it("shows no number while nothing is known", async () => {
  assert.deepEqual(seats(), { status: "unknown", fresh: false });
  await connect(snapshot(5, {}), counted(9, 5, { seats: { kind: "allocated", used: 2, reserved: 0, status: "unknown" } }));
  assert.deepEqual([seats().status, seats().used, seats().limit], ["unknown", 2, undefined]);
  for (const name of ["projects", "constructor", "__proto__"])
    assert.deepEqual(meter(acme.getSnapshot(), name), { status: "unknown", fresh: true });
});

it("is not current while the limits are of other entitlements than the page's", async () => {
  await connect(snapshot(5, {}), counted(9, 5, { seats: SEATS }));
  const { asOf } = acme.getSnapshot();
  world.socket.receive(snapshot(6, {}));
  assert.deepEqual([acme.getSnapshot().status, acme.getSnapshot().reason], ["stale", "entitlements"]);
  assert.deepEqual([seats().used, seats().fresh, acme.getSnapshot().asOf], [8, false, asOf]);
  world.socket.receive(counted(10, 6, { seats: { ...SEATS, limit: 20, remaining: 12 } }));
  assert.deepEqual([seats().limit, seats().fresh], [20, true]);
  // The other way round: the count comes first.
  world.socket.receive(counted(11, 7, { seats: SEATS }));
  assert.equal(seats().fresh, false);
  world.socket.receive(snapshot(7, {}));
  assert.equal(seats().fresh, true);
});

it("is current with the limit of the page's own entitlements alone, in whichever order versions come", async () => {
  let seed = 7;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const { seen } = await connect(snapshot(1, { seats: 10 }), counted(1, 1, { seats: SEATS }));
  let [entitled, count, shown] = [1, 1, 1];
  for (let step = 0; step < 500; step++) {
    if (random(3)) entitled += random(2);
    // A count of any version up to one that has not come here yet; late ones are of an earlier version than shown.
    count = Math.max(count, Math.min(entitled + 1, count + random(3)));
    if (random(2)) world.socket.receive(snapshot(entitled, { seats: entitled * 10 }));
    if (random(2)) world.socket.receive(counted(++shown, count, { seats: { ...SEATS, limit: count * 10 } }));
    const own = world.client.topic(TOPIC).getSnapshot();
    assert.equal(seats().fresh, acme.getSnapshot().state.entitlements == own.version);
    if (seats().fresh) assert.equal(seats().limit, own.state.seats);
  }
  world.socket.receive(snapshot(600, { seats: 6000 }), counted(++shown, 600, { seats: { ...SEATS, limit: 6000 } }));
  assert.deepEqual([seats().limit, seats().fresh], [6000, true]);
  assert.ok(seen.some(({ status }) => status == "fresh") && seen.some(({ status }) => status == "stale"));
});

it("is never current on entitlements that nobody confirms", async () => {
  await connect(snapshot(5, {}), counted(9, 5, { seats: SEATS }));
  world.socket.receive({ type: "error", code: "forbidden", topic: TOPIC });
  assert.deepEqual([acme.getSnapshot().status, seats().fresh], ["stale", false]);
});

it("is not current without a connection, and hides a count that it may not see", async () => {
  await connect(snapshot(5, {}), counted(9, 5, { seats: SEATS }));
  world.socket.drop();
  assert.deepEqual([seats().used, seats().fresh], [8, false]);
  await world.reconnect({ type: "gone", topic: "usage:acme", reason: "revoked" });
  assert.equal(acme.getSnapshot().status, "denied");
  assert.deepEqual(seats(), { status: "unknown", fresh: false });
});

it("makes a new object only of what has changed", async () => {
  const { seen } = await connect(snapshot(5, {}), counted(9, 5, { seats: SEATS, api_calls: CALLS }));
  const before = [seats(), acme.getSnapshot(), seen.length];
  assert.equal(acme.getSnapshot(), before[1]);
  const shown = [];
  useUsage(acme, "seats").subscribe((value) => shown.push(value));
  world.socket.receive({ type: "patch", topic: "usage:acme", base: 9, version: 10, patch: { meters: { api_calls: { used: 4 } } } });
  assert.equal(seats(), before[0]);
  assert.equal(meter(acme.getSnapshot(), "api_calls").used, 4);
  assert.equal(shown.length, 1);
});

it("takes part in everything that takes a topic", async () => {
  const used = [];
  part(acme, ({ state }) => state?.meters.seats.used).subscribe((value) => used.push(value));
  await connect(snapshot(5, {}), counted(9, 5, { seats: SEATS }));
  assert.deepEqual(used, [undefined, 8]);
});

it("stops on request, and leaves the tenant's topic open", async () => {
  const { seen, stop } = await connect(snapshot(5, {}), counted(9, 5, { seats: SEATS }));
  stop();
  const { length } = seen;
  world.socket.receive(snapshot(6, {}), counted(10, 6, { seats: SEATS }));
  assert.equal(seen.length, length);
  acme.close();
  assert.equal(world.socket.closedByClient, false);
  assert.deepEqual(world.client.topic(TOPIC).getSnapshot().version, 6);
});

it("waits for new entitlements, as a page does that comes from a checkout", async () => {
  await connect(snapshot(5, {}), counted(9, 5, { seats: SEATS }));
  const waited = acme.expect({ timeoutMs: 1000 });
  world.socket.receive(snapshot(6, {}));
  assert.equal(await waited, true);
});

it("names the usage topic of a tenant in any environment, and of nothing else", () => {
  const names = [];
  const client = { topic: (name) => (names.push(name), world.topic) };
  usage(client, "sandbox/tenant:auth0%7C5f1c");
  assert.deepEqual(names, ["sandbox/usage:auth0%7C5f1c", "sandbox/tenant:auth0%7C5f1c"]);
  for (const wrong of ["acme", "user:acme", "usage:acme", "user:tenant:x"])
    assert.throws(() => usage(client, wrong), TypeError);
});
