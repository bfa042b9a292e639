import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { provider } from "../openfeature.js";
import { TOPIC, WELCOME, open, settle, snapshot } from "./fakes.js";

/** @type {any} */
let world;
beforeEach(() => (world = open()));
afterEach(() => world.close());

const STATE = { plan: { name: "Pro" }, features: { sso: true }, limits: { seats: 12 } };

describe("the provider", () => {
  it("is ready with the first state, and resolves features and paths", async () => {
    const flags = provider(world.topic);
    let isReady = false;
    flags.initialize().then(() => (isReady = true));
    await settle();
    assert.equal(isReady, false);
    await world.connect({ frames: [snapshot(5, STATE)] });
    await settle();
    assert.ok(isReady);
    const value = ({ value, reason }) => [value, reason];
    assert.deepEqual(value(flags.resolveBooleanEvaluation("sso", false)), [true, "TARGETING_MATCH"]);
    assert.deepEqual(value(flags.resolveNumberEvaluation("limits.seats", 1)), [12, "TARGETING_MATCH"]);
    assert.deepEqual(value(flags.resolveStringEvaluation("plan.name", "")), ["Pro", "TARGETING_MATCH"]);
    assert.deepEqual(value(flags.resolveObjectEvaluation("limits", {})), [{ seats: 12 }, "TARGETING_MATCH"]);
    assert.deepEqual(value(flags.resolveBooleanEvaluation("audit", false)), [false, "DEFAULT"]);
    assert.equal(flags.resolveStringEvaluation("sso", "no").errorCode, "TYPE_MISMATCH");
    world.socket.drop();
    assert.equal(flags.resolveBooleanEvaluation("sso", false).reason, "STALE");
  });

  it("tells what changed, when it is stale and when it is current again", async () => {
    const flags = provider(world.topic);
    const events = [];
    for (const name of ["PROVIDER_READY", "PROVIDER_STALE", "PROVIDER_CONFIGURATION_CHANGED", "PROVIDER_ERROR"])
      flags.events.addHandler(name, (details) => events.push([name, details?.flagsChanged]));
    flags.initialize();
    await world.connect({ frames: [snapshot(5, STATE)] });
    await world.tick(0);
    assert.deepEqual(events, []);
    // No list of flags: the SDK's hooks would pass over one that is not in it, and any path may be a flag.
    world.socket.receive(snapshot(6, { ...STATE, limits: { seats: 13 } }));
    world.socket.drop();
    await world.reconnect({ type: "current", topic: TOPIC, version: 6 });
    assert.deepEqual(events, [
      ["PROVIDER_CONFIGURATION_CHANGED", undefined],
      ["PROVIDER_STALE", undefined],
      ["PROVIDER_READY", undefined],
    ]);
    await flags.onClose();
    world.socket.drop();
    assert.equal(events.length, 3);
  });

  it("is ready and then stale with a state from the page or from storage", async () => {
    world.close();
    world = open({ initial: () => ({ version: 4, state: STATE, status: "stale" }) });
    const flags = provider(world.topic);
    const events = [];
    for (const name of ["PROVIDER_READY", "PROVIDER_STALE"]) flags.events.addHandler(name, () => events.push(name));
    // As the SDK does: it makes READY of the promise.
    flags.initialize().then(() => events.push("ready"));
    await world.tick(0);
    assert.deepEqual(events, ["ready", "PROVIDER_STALE"]);
    world.socket.accept();
    world.socket.receive(WELCOME, snapshot(5, STATE));
    await world.tick(0);
    assert.deepEqual(events, ["ready", "PROVIDER_STALE", "PROVIDER_READY"]);
  });

  it("does not become ready when it is denied", async () => {
    const promise = provider(world.topic).initialize();
    await world.connect();
    world.socket.drop(4503);
    await assert.rejects(promise);
  });
});
