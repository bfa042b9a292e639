/** The vectors that this client shares with the Python one, and any interleaving of frames. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { existsSync, readFileSync } from "node:fs";
import { topic } from "../planwire.js";
import { TOPIC, open, snapshot } from "./fakes.js";
import { tenantReference } from "../reference.js";

const FOLDER = new URL("../../../tests/vectors/", import.meta.url);
/** The rows of a file; none where this folder stands alone, without the repository. @param {string} name */
const vectors = (name) => (existsSync(FOLDER) ? JSON.parse(readFileSync(new URL(name, FOLDER), "utf8")) : []);

it("runs the vectors wherever the repository is", () =>
  assert.equal(existsSync(FOLDER), existsSync(new URL("../../../.ci/run", import.meta.url))));

/** @type {any} */
let world;
beforeEach(() => (world = open()));
afterEach(() => world.close());

describe("topics", () => {
  for (const { kind, id, env, topic: name } of vectors("topics.json"))
    it(`${kind} ${JSON.stringify(id)} ${env ?? ""}`, () => {
      if (name === null) assert.throws(() => topic(kind, id, env));
      else assert.equal(topic(kind, id, env), name);
    });

  it("refuses what is not text or an exact number", () => {
    for (const id of [undefined, NaN, Infinity, 2 ** 53, Symbol("a"), () => 1, new Date(0), 1n])
      assert.throws(() => topic("tenant", /** @type {any} */ (id)));
  });
});

describe("merge patch", () => {
  for (const { name, target, patch, result } of vectors("merge_patch.json"))
    it(name, async () => {
      await world.connect({
        frames: [snapshot(1, target), { type: "patch", topic: TOPIC, base: 1, version: 2, patch }],
      });
      assert.deepEqual(world.topic.getSnapshot().state, result);
    });
});

describe("frames", () => {
  for (const { name, topic, frames, shown, sent } of vectors("frames.json"))
    it(name, async () => {
      assert.equal(topic, TOPIC);
      await world.connect();
      const seen = [];
      world.topic.subscribe(() => {});
      world.socket.sent = [];
      for (const frame of frames) {
        world.socket.receive(frame);
        const { version, state, status } = world.topic.getSnapshot();
        seen.push({ version, state, status });
      }
      assert.deepEqual(seen, shown);
      assert.deepEqual(
        world.socket.sent.filter(({ type }) => type != "ack"),
        sent,
      );
    });
});

describe("reconnecting", () => {
  for (const { name, code, decision } of vectors("reconnect.json"))
    it(name, async () => {
      let tokens = 0;
      world.close();
      world = open({ token: () => `jwt-${++tokens}` });
      await world.connect({ frames: [snapshot(1, {})] });
      world.socket.drop(code);
      await world.tick(60_000);
      const comesBack = world.sockets.length > 1;
      assert.deepEqual(comesBack ? (tokens > 1 ? "new_token" : "reconnect") : "final", decision);
      assert.equal(world.topic.getSnapshot().status == "denied", decision == "final");
    });
});

describe("any interleaving of frames", () => {
  /** A small generator with a seed, so that a failure can be run again. @param {number} seed */
  const generator = (seed) => () => {
    seed = (seed * 1664525 + 1013904223) % 2 ** 32;
    return seed / 2 ** 32;
  };

  for (let seed = 1; seed <= 200; seed++)
    it(`leaves the newest version shown (seed ${seed})`, async () => {
      const random = generator(seed);
      const pick = (/** @type {number} */ below) => Math.floor(random() * below);
      const states = Array.from({ length: 12 }, (_, version) =>
        version ? { n: version, ["k" + (version % 3)]: version } : null,
      );
      const change = (/** @type {any} */ from, /** @type {any} */ to) => ({
        ...Object.fromEntries(
          Object.keys(from)
            .filter((key) => !(key in to))
            .map((key) => [key, null]),
        ),
        ...to,
      });
      const { shown } = await world.connect();
      let newest = 0;
      let isConfirmed = false;
      let isHeard = true;
      for (let step = 0; step < 60; step++) {
        const version = 1 + pick(11);
        const base = pick(version);
        const kind = pick(16);
        const receive = (/** @type {any} */ frame) => world.socket.receive({ topic: TOPIC, ...frame });
        if (kind < 4) {
          receive(snapshot(version, states[version]));
          isConfirmed ||= version >= newest;
          newest = Math.max(newest, version);
        } else if (kind < 7) {
          receive({ type: "current", version });
          isConfirmed ||= version == newest;
        } else if (kind < 12) {
          receive({ type: "patch", base, version, patch: change(states[base] ?? {}, states[version]) });
          if (base == newest) [newest, isConfirmed] = [version, true];
          isConfirmed ||= version == newest;
        } else if (kind == 12) {
          isHeard = random() < 0.7;
          world.socket.receive({ type: "heartbeat", at: 2, verified_at: 1, fresh: isHeard });
        } else if (kind == 13) {
          receive({ type: random() < 0.5 ? "pending" : "expired", after: version });
        } else if (kind == 14) {
          world.socket.drop();
          assert.notEqual(world.topic.getSnapshot().status, "fresh");
          await world.reconnect();
          assert.equal(world.socket.ofType("hello")[0].topics[TOPIC], newest);
          [isConfirmed, isHeard] = [false, true];
        } else {
          receive({ type: "unheard_of", reason: "of its own" });
          receive({ type: "ack_policy", share: 0.5, after_ms: 10 });
        }
        const now = world.topic.getSnapshot();
        assert.equal(now.version, newest);
        assert.deepEqual(now.state, states[newest]);
        assert.equal(now.status == "fresh", isConfirmed && isHeard, `step ${step}`);
      }
      const versions = shown.map((snapshot) => snapshot.version);
      assert.deepEqual(
        versions,
        [...versions].sort((one, other) => one - other),
      );
    });
});

describe("tenant references", () => {
  for (const { secret, tenant, environment, reference } of vectors("tenant_reference.json"))
    it(`${environment} ${tenant}`, async () => {
      if (reference === null) await assert.rejects(tenantReference(secret, tenant, environment), TypeError);
      else assert.equal(await tenantReference(secret, tenant, environment), reference);
    });
  it("refuses a short secret, and what a program has instead of an id", async () => {
    await assert.rejects(tenantReference("short", "acme"), RangeError);
    for (const id of [undefined, null, {}, true, 1.5])
      await assert.rejects(tenantReference("s".repeat(32), /** @type {any} */ (id)), TypeError);
  });
});
