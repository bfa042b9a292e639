import assert from "node:assert/strict";
import { afterEach, beforeEach, it } from "node:test";
import { app } from "../app.js";
import { provider } from "../openfeature.js";
import { open, settle, snapshot } from "./fakes.js";

/** @type {any} */
let world;
beforeEach(() => (world = open()));
afterEach(() => world.close());

const CRM = { plan: { name: "CRM" }, status: "active", features: { pipeline: true }, limits: { seats: 5 } };
const STATE = { ...CRM, features: { pipeline: true, tickets: true }, apps: { crm: CRM, mail: { status: "none", features: {} } } };

it("has the state of one application, and the version and status of the topic", async () => {
  const crm = app(world.topic, "crm");
  const seen = [];
  const stop = crm.subscribe((shown) => seen.push(shown));
  await world.connect({ frames: [snapshot(5, STATE)] });
  const { state, version, status } = crm.getSnapshot();
  assert.deepEqual([state, version, status], [CRM, 5, "fresh"]);
  assert.equal(seen.at(-1), crm.getSnapshot());
  assert.equal(crm.getSnapshot(), crm.getSnapshot());
  assert.equal(crm.getServerSnapshot().state, null);
  world.socket.drop();
  assert.equal(crm.getSnapshot().status, "stale");
  stop();
});

it("never shows as current what the state does not say", async () => {
  const names = ["shop", "constructor"];
  const topics = names.map((name) => app(world.topic, name));
  topics[0].subscribe(() => {});
  await world.connect({ frames: [snapshot(5, STATE)] });
  for (const topic of topics)
    assert.deepEqual([topic.getSnapshot().state, topic.getSnapshot().status, topic.getSnapshot().reason], [null, "stale", "no app"]);
  assert.equal(world.topic.getSnapshot().status, "fresh");
  world.socket.receive(snapshot(6, null));
  assert.deepEqual([topics[0].getSnapshot().state, topics[0].getSnapshot().status], [null, "fresh"]);
});

it("is what OpenFeature asks", async () => {
  const [crm, mail] = ["crm", "mail"].map((name) => provider(app(world.topic, name)));
  crm.initialize();
  mail.initialize();
  await world.connect({ frames: [snapshot(5, STATE)] });
  await settle();
  assert.equal(crm.resolveBooleanEvaluation("pipeline", false).value, true);
  assert.equal(crm.resolveBooleanEvaluation("tickets", false).value, false);
  assert.equal(crm.resolveNumberEvaluation("limits.seats", 1).value, 5);
  assert.equal(mail.resolveBooleanEvaluation("pipeline", false).value, false);
});

it("expects and closes as the topic does", () => {
  const crm = app(world.topic, "crm");
  assert.deepEqual([crm.expect, crm.close], [world.topic.expect, world.topic.close]);
});
