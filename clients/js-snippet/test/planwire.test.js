import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it, mock } from "node:test";
import { TOPIC, WELCOME, open, settle, snapshot } from "./fakes.js";

/** @type {any} */
let world;
beforeEach(() => (world = open()));
afterEach(() => world.close());

const again = (options) => {
  world.close();
  world = open(options);
};

describe("a topic before anything arrived", () => {
  it("is connecting, and calls a listener at once with the snapshot it also returns", () => {
    const seen = [];
    world.topic.subscribe((snapshot) => seen.push(snapshot));
    assert.deepEqual(seen, [{ state: null, version: 0, status: "connecting" }]);
    assert.equal(seen[0], world.topic.getSnapshot());
    assert.equal(seen[0], world.topic.getServerSnapshot());
  });

  it("is one object for one name", () => assert.equal(world.client.topic(TOPIC), world.topic));

  it("connects at the first subscribe, not before", async () => {
    await world.tick(100_000);
    assert.equal(world.sockets.length, 0);
    world.topic.subscribe(() => {});
    world.topic.subscribe(() => {});
    await settle();
    assert.deepEqual(
      world.sockets.map((socket) => socket.url),
      ["https://live.example.com/v1/connect"],
    );
  });

  it("never connects where there is no window", async () => {
    delete globalThis.addEventListener;
    world.topic.subscribe(() => {});
    await world.tick(100_000);
    assert.equal(world.sockets.length, 0);
  });

  it("shows a first paint as stale and resumes from it", async () => {
    again({ initial: (name) => name == TOPIC && { version: 7, state: { plan: "pro" }, status: "stale" } });
    const first = world.topic.getServerSnapshot();
    assert.deepEqual(first, { version: 7, state: { plan: "pro" }, status: "stale" });
    await world.connect({ frames: [{ type: "current", topic: TOPIC, version: 7 }] });
    assert.deepEqual(world.socket.ofType("hello")[0].topics, { [TOPIC]: 7 });
    assert.equal(world.topic.getSnapshot().status, "fresh");
    assert.equal(world.topic.getServerSnapshot(), first);
  });
});

describe("frames", () => {
  it("says hello with the token and the versions held", async () => {
    world.client.topic("user:42");
    await world.connect();
    assert.deepEqual(world.socket.sent, [
      { type: "hello", token: "jwt", topics: { [TOPIC]: 0, "user:42": 0 }, client: "planwire-js/0.2.0" },
    ]);
  });

  it("shows a snapshot as fresh, frozen to the bottom, as of now", async () => {
    const cause = { source: "paddle", received_at: "2026-11-23T00:16:01.871Z" };
    const { shown } = await world.connect({ frames: [snapshot(5, { plan: { key: "pro" } }, { cause })] });
    const last = shown.at(-1);
    assert.deepEqual(last, {
      state: { plan: { key: "pro" } },
      version: 5,
      status: "fresh",
      asOf: Date.now(),
      reason: "",
      cause,
    });
    assert.ok(Object.isFrozen(last) && Object.isFrozen(last.state) && Object.isFrozen(last.state.plan));
    assert.equal(last, world.topic.getSnapshot());
  });

  it("keeps the snapshot's identity until something changes", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    const before = world.topic.getSnapshot();
    world.socket.receive(snapshot(4, { old: true }), snapshot(9, {}, { topic: "tenant:other" }));
    assert.equal(world.topic.getSnapshot(), before);
    world.socket.receive({ type: "unheard_of", version: 5, state: "odd" });
    const { state, version } = world.topic.getSnapshot();
    assert.deepEqual([state, version], [before.state, 5]);
  });

  it("a topic without state is version 0, null and fresh", async () => {
    await world.connect({ frames: [snapshot(0, null)] });
    const { status, state, version } = world.topic.getSnapshot();
    assert.deepEqual([status, state, version], ["fresh", null, 0]);
  });

  it("applies a patch on the version it names, sharing what did not change", async () => {
    await world.connect({ frames: [snapshot(5, { plan: "free", limits: { seats: 1 }, trial: true })] });
    const { limits } = world.topic.getSnapshot().state;
    world.socket.receive({ type: "patch", topic: TOPIC, base: 5, version: 6, patch: { plan: "pro", trial: null } });
    const { state, version } = world.topic.getSnapshot();
    assert.deepEqual([state, version], [{ plan: "pro", limits: { seats: 1 } }, 6]);
    assert.equal(state.limits, limits);
    assert.ok(Object.isFrozen(state));
  });

  it("never applies a patch on another version: it asks for the whole state", async () => {
    await world.connect({ frames: [snapshot(5, { plan: "free" })] });
    const before = world.topic.getSnapshot();
    world.socket.sent = [];
    world.socket.receive({ type: "patch", topic: TOPIC, base: 6, version: 7, patch: { plan: "pro" } });
    assert.equal(world.topic.getSnapshot(), before);
    assert.deepEqual(world.socket.sent, [
      { type: "subscribe", topic: TOPIC },
      { type: "nack", topic: TOPIC, version: 7, reason: "patch" },
    ]);
  });

  it("ignores an old patch without a word", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.socket.sent = [];
    world.socket.receive({ type: "patch", topic: TOPIC, base: 3, version: 4, patch: { plan: "old" } });
    assert.deepEqual([world.topic.getSnapshot().state, world.socket.sent], [{}, []]);
  });

  it("goes to a lower version on reset only", async () => {
    const { shown } = await world.connect({ frames: [snapshot(5, { n: 5 }), snapshot(3, { n: 3 })] });
    assert.equal(shown.at(-1).version, 5);
    world.socket.receive(snapshot(3, { n: 3 }, { reset: true }));
    assert.deepEqual([shown.at(-1).version, shown.at(-1).state], [3, { n: 3 }]);
  });

  it("is not confirmed by a `current` of another version", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.socket.drop();
    await world.reconnect({ type: "current", topic: TOPIC, version: 6 });
    assert.equal(world.topic.getSnapshot().status, "stale");
    world.socket.receive({ type: "current", topic: TOPIC, version: 5 });
    assert.equal(world.topic.getSnapshot().status, "fresh");
  });

  it("subscribes a topic that is added on an open socket, and unsubscribes a closed one", async () => {
    await world.connect();
    world.socket.sent = [];
    const user = world.client.topic("user:42");
    user.close();
    assert.deepEqual(world.socket.sent, [
      { type: "subscribe", topic: "user:42", version: 0 },
      { type: "unsubscribe", topic: "user:42" },
    ]);
    assert.notEqual(world.client.topic("user:42"), user);
  });

  it("closes a topic once: a newer one of the same name stays", async () => {
    await world.connect();
    const left = world.client.topic("user:42");
    left.close();
    const user = world.client.topic("user:42");
    world.socket.sent = [];
    left.close();
    assert.deepEqual(world.socket.sent, []);
    assert.equal(world.client.topic("user:42"), user);
    world.socket.receive(snapshot(6, {}, { topic: "user:42" }));
    assert.deepEqual([left.getSnapshot().version, user.getSnapshot().version], [0, 6]);
  });

  it("closes the socket with the last topic, for good", async () => {
    await world.connect();
    world.topic.close();
    assert.ok(world.socket.closedByClient);
    world.fire("online");
    await world.tick(1e6);
    assert.equal(world.sockets.length, 1);
    world.client.topic(TOPIC).subscribe(() => {});
    await settle();
    assert.equal(world.sockets.length, 2);
  });
});

describe("freshness", () => {
  it("is stale with the gateway's own doubt, and fresh again with its word", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    const at = Date.now() * 1000;
    world.socket.receive({ type: "heartbeat", at, fresh: false, verified_at: at - 9e6 });
    assert.deepEqual([world.topic.getSnapshot().status, world.topic.getSnapshot().reason], ["stale", "gateway"]);
    world.socket.receive({ type: "heartbeat", at, fresh: true, verified_at: at - 250_000 });
    assert.deepEqual([world.topic.getSnapshot().status, world.topic.getSnapshot().reason], ["fresh", ""]);
  });

  it("counts as-of from when the bus was verified, by this machine's clock", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    const { state, asOf } = world.topic.getSnapshot();
    await world.tick(900);
    world.socket.receive({ type: "heartbeat", at: 5_000_000, fresh: true, verified_at: 4_750_000 });
    assert.equal(world.topic.getSnapshot().asOf, Date.now() - 250);
    assert.ok(world.topic.getSnapshot().asOf > asOf);
    assert.equal(world.topic.getSnapshot().state, state);
  });

  it("does not vouch for a topic that the gateway has not yet confirmed", async () => {
    await world.connect();
    world.socket.receive({ type: "heartbeat", at: 2, fresh: true, verified_at: 1 });
    assert.equal(world.topic.getSnapshot().status, "connecting");
  });

  it("starts stale when the welcome says so", async () => {
    await world.connect({ welcome: { fresh: false }, frames: [snapshot(5, {})] });
    const { status, asOf } = world.topic.getSnapshot();
    assert.deepEqual([status, asOf], ["stale", undefined]);
  });

  it("is stale at 2.5 heartbeats of silence, not before, and comes back", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    await world.tick(2499);
    assert.equal(world.topic.getSnapshot().status, "fresh");
    await world.tick(1);
    assert.deepEqual([world.topic.getSnapshot().status, world.topic.getSnapshot().reason], ["stale", "silence"]);
    assert.ok(world.socket.closedByClient);
    await world.reconnect({ type: "current", topic: TOPIC, version: 5 });
    assert.equal(world.topic.getSnapshot().status, "fresh");
  });

  it("any frame is a sign of life", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    for (let n = 0; n < 10; n++) {
      await world.tick(2000);
      world.socket.receive({ type: "heartbeat", at: 2, fresh: true, verified_at: 1 });
    }
    assert.equal(world.sockets.length, 1);
  });

  it("gives up on a connection that stays silent for 10 s", async () => {
    world.topic.subscribe(() => {});
    await world.tick(9_999);
    assert.equal(world.socket.closedByClient, false);
    await world.tick(1);
    assert.ok(world.socket.closedByClient);
  });

  it("says offline when the browser is, and connecting while nothing is known", async () => {
    await world.connect();
    world.socket.drop();
    assert.equal(world.topic.getSnapshot().status, "connecting");
    await world.reconnect(snapshot(5, {}));
    navigator.onLine = false;
    world.socket.drop();
    assert.equal(world.topic.getSnapshot().status, "offline");
  });
});

describe("reconnecting", () => {
  it("waits the full jitter of a doubling bound, reset by the first snapshot and not by the socket", async () => {
    await world.connect({ welcome: { reconnect: { min_ms: 100, max_ms: 1000 } } });
    for (const bound of [100, 200, 400, 800, 1000, 1000]) {
      world.draw(0.5);
      world.socket.drop();
      const count = world.sockets.length;
      await world.tick(bound / 2 - 1);
      assert.equal(world.sockets.length, count, `before ${bound / 2}`);
      await world.tick(1);
      assert.equal(world.sockets.length, count + 1, `at ${bound / 2}`);
      world.socket.accept();
      world.socket.receive({ ...WELCOME, reconnect: { min_ms: 100, max_ms: 1000 } });
    }
    world.socket.receive(snapshot(5, {}));
    world.draw(0.5);
    world.socket.drop();
    const count = world.sockets.length;
    await world.tick(50);
    assert.equal(world.sockets.length, count + 1);
  });

  it("resumes with the version held", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.socket.drop();
    await world.reconnect();
    assert.deepEqual(world.socket.sent[0].topics, { [TOPIC]: 5 });
  });

  it("is deaf to a socket it has given up", async () => {
    await world.connect({ frames: [snapshot(5, { n: 5 })] });
    const old = world.socket;
    old.drop();
    old.receive(snapshot(6, { n: 6 }));
    old.drop(4503);
    assert.deepEqual([world.topic.getSnapshot().version, world.topic.getSnapshot().status], [5, "stale"]);
    await world.reconnect(snapshot(7, {}));
    old.drop(4503);
    assert.equal(world.topic.getSnapshot().status, "fresh");
  });

  for (const code of [1000, 1006, 1012, 4000, 4008, 4499])
    it(`comes back after ${code}`, async () => {
      await world.connect({ frames: [snapshot(5, {})] });
      world.socket.drop(code);
      assert.deepEqual([world.topic.getSnapshot().status, world.topic.getSnapshot().reason], ["stale", code]);
      await world.reconnect();
    });

  for (const code of [4500, 4501, 4503, 4513, 4529, 4999])
    it(`is denied for good by ${code}`, async () => {
      await world.connect({ frames: [snapshot(5, {})] });
      world.socket.drop(code);
      assert.deepEqual([world.topic.getSnapshot().status, world.topic.getSnapshot().reason], ["denied", code]);
      world.fire("online");
      world.topic.subscribe(() => {});
      await world.tick(1e6);
      assert.equal(world.sockets.length, 1);
      assert.equal(world.topic.getSnapshot().reason, code);
    });

  it("comes back after a bye within the time that it gave, whatever the backoff says", async () => {
    await world.connect({ welcome: { reconnect: { min_ms: 30_000, max_ms: 30_000 } }, frames: [snapshot(5, {})] });
    world.draw(0.5);
    world.socket.receive({ type: "bye", reconnect_ms: 4000 });
    assert.deepEqual([world.topic.getSnapshot().status, world.topic.getSnapshot().reason], ["stale", "bye"]);
    world.socket.drop(4000);
    await world.tick(1999);
    assert.equal(world.sockets.length, 1);
    await world.tick(1);
    assert.equal(world.sockets.length, 2);
  });

  for (const event of ["online", "visibilitychange", "pageshow"])
    it(`wakes within 200 ms on ${event}`, async () => {
      await world.connect({ welcome: { reconnect: { min_ms: 20_000, max_ms: 30_000 } } });
      world.socket.drop();
      await world.tick(1000);
      assert.equal(world.sockets.length, 1);
      world.fire(event);
      await world.tick(200);
      assert.equal(world.sockets.length, 2);
    });

  it("on waking asks the wall clock whether the socket can still be alive", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.fire("visibilitychange");
    assert.equal(world.sockets.length, 1);
    mock.timers.setTime(Date.now() + 60_000); // asleep: timers did not run
    world.fire("visibilitychange");
    await world.tick(200);
    assert.equal(world.sockets.length, 2);
  });

  it("lets go of the socket for the back/forward cache and takes it up again", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.fire("pagehide");
    assert.ok(world.socket.closedByClient);
    await world.tick(1e6);
    assert.equal(world.sockets.length, 1);
    world.fire("pageshow");
    await world.tick(200);
    assert.equal(world.sockets.length, 2);
  });
});

describe("the token", () => {
  it("may be a plain string", async () => {
    again({ token: "plain" });
    await world.connect();
    assert.equal(world.socket.sent[0].token, "plain");
  });

  it("is never in the URL", async () => {
    await world.connect();
    assert.ok(!world.socket.url.includes("jwt"));
  });

  it("is kept over a reconnect and fetched anew after 4401", async () => {
    let count = 0;
    again({ token: async () => `jwt-${++count}` });
    await world.connect({ frames: [snapshot(5, {})] });
    world.socket.drop();
    await world.reconnect();
    assert.equal(world.socket.sent[0].token, "jwt-1");
    world.socket.drop(4401);
    await world.reconnect();
    assert.equal(world.socket.sent[0].token, "jwt-2");
  });

  it("is refreshed in band in its last minute by the gateway's clock, and again when that one ends", async () => {
    let count = 0;
    again({ token: async () => `jwt-${++count}` });
    const heartbeat = async (second) => {
      world.socket.receive({ type: "heartbeat", at: second * 1e6, fresh: true, verified_at: second * 1e6 });
      await settle();
    };
    const tokens = () => world.socket.ofType("token").map((frame) => frame.token);
    await world.connect({ welcome: { token_expires_at: 1000 }, frames: [snapshot(5, {})] });
    await heartbeat(940);
    assert.deepEqual(tokens(), []);
    await heartbeat(941);
    assert.deepEqual(tokens(), ["jwt-2"]);
    world.socket.receive({ ...WELCOME, token_expires_at: 2000 });
    await heartbeat(1900);
    assert.deepEqual(tokens(), ["jwt-2"]);
    await heartbeat(1950);
    assert.deepEqual(tokens(), ["jwt-2", "jwt-3"]);
    assert.deepEqual([world.sockets.length, world.topic.getSnapshot().status], [1, "fresh"]);
  });

  it("is fetched anew when the first one is refused, with a word before the close", async () => {
    let count = 0;
    again({ token: () => `jwt-${++count}` });
    world.topic.subscribe(() => {});
    await settle();
    world.socket.accept();
    world.socket.receive({ type: "error", code: "token_expired", message: "" });
    await world.tick(5);
    world.socket.drop(4401);
    await world.reconnect();
    assert.equal(world.socket.sent[0].token, "jwt-2");
  });

  it("tries again when the callback fails, at the start and at a refresh", async () => {
    let fail = true;
    again({
      token: async () => {
        if (fail) throw new Error("503");
        return "jwt";
      },
    });
    world.topic.subscribe(() => {});
    await settle();
    assert.equal(world.topic.getSnapshot().reason, "Error: 503");
    fail = false;
    await world.tick(500);
    world.socket.accept();
    world.socket.receive({ ...WELCOME, token_expires_at: 60 }, snapshot(5, {}));
    fail = true;
    world.socket.receive({ type: "heartbeat", at: 2, fresh: true, verified_at: 1 });
    await settle();
    assert.equal(world.topic.getSnapshot().status, "fresh");
    fail = false;
    world.socket.receive({ type: "heartbeat", at: 2, fresh: true, verified_at: 1 });
    await settle();
    assert.equal(world.socket.ofType("token").length, 1);
  });

  it("is fetched once, however long that and the gateway's answer take", async () => {
    const answers = [];
    again({ token: () => new Promise((resolve) => answers.push(resolve)) });
    const heartbeat = async () => {
      world.socket.receive({ type: "heartbeat", at: 950e6, fresh: true, verified_at: 950e6 });
      await settle();
    };
    world.topic.subscribe(() => {});
    answers[0]("jwt-1");
    await settle();
    world.socket.accept();
    world.socket.receive({ ...WELCOME, token_expires_at: 1000 }, snapshot(5, {}));
    await heartbeat();
    await heartbeat();
    assert.equal(answers.length, 2);
    answers[1]("jwt-2");
    await heartbeat();
    await heartbeat();
    assert.equal(answers.length, 2);
    assert.deepEqual(world.socket.ofType("token"), [{ type: "token", token: "jwt-2" }]);
    world.socket.receive({ ...WELCOME, token_expires_at: 1001 });
    await heartbeat();
    assert.equal(answers.length, 3);
  });

  it("that fails for an attempt that was given up does not end the next one", async () => {
    const answers = [];
    again({ token: () => new Promise((resolve, reject) => answers.push({ resolve, reject })) });
    world.topic.subscribe(() => {});
    await world.tick(10_000);
    await world.tick(30_000);
    assert.equal(answers.length, 2);
    answers[0].reject(new Error("late"));
    await settle();
    assert.equal(world.topic.getSnapshot().reason, "silence");
    answers[1].resolve("jwt");
    await settle();
    assert.equal(world.sockets.length, 1);
  });

  it("that comes after the last topic was closed opens nothing", async () => {
    let answer;
    again({ token: () => new Promise((resolve) => (answer = resolve)) });
    world.topic.subscribe(() => {});
    world.topic.close();
    answer("late");
    await settle();
    assert.equal(world.sockets.length, 0);
  });
});

describe("acks", () => {
  it("waits for the paint, then acks", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    await world.tick(1000);
    assert.equal(world.socket.ofType("ack").length, 0);
    world.paint();
    await world.tick(0);
    assert.deepEqual(world.socket.ofType("ack"), [{ type: "ack", topic: TOPIC, version: 5 }]);
  });

  it("does not wait for a paint that will not come", async () => {
    document.hidden = true;
    await world.connect({ frames: [snapshot(5, {})] });
    await world.tick(0);
    assert.equal(world.socket.ofType("ack").length, 1);
  });

  it("acks the newest only, within the jitter it was given", async () => {
    await world.connect({ welcome: { ack: { share: 1, after_ms: 1000 } }, frames: [snapshot(5, {})] });
    world.paint();
    await world.tick(100);
    world.socket.receive(snapshot(6, {}));
    world.paint();
    await world.tick(499);
    assert.deepEqual(world.socket.ofType("ack"), []);
    await world.tick(1);
    assert.deepEqual(
      world.socket.ofType("ack").map((ack) => ack.version),
      [6],
    );
  });

  it("acks the given share of versions", async () => {
    await world.connect({ welcome: { ack: { share: 0.25, after_ms: 0 } } });
    world.draw(0.24, 0, 0.25);
    world.socket.receive(snapshot(5, {}));
    world.paint();
    await world.tick(0);
    world.socket.receive(snapshot(6, {}));
    world.paint();
    await world.tick(0);
    assert.deepEqual(
      world.socket.ofType("ack").map((ack) => ack.version),
      [5],
    );
  });

  it("follows a changed policy, of one topic or of all", async () => {
    await world.connect({ welcome: { ack: { share: 0, after_ms: 0 } } });
    const versions = () => world.socket.ofType("ack").map((ack) => ack.version);
    const push = async (version) => {
      world.socket.receive(snapshot(version, {}));
      world.paint();
      await world.tick(0);
    };
    await push(5);
    world.socket.receive({ type: "ack_policy", topic: "tenant:other", share: 1, after_ms: 0 });
    await push(6);
    world.socket.receive({ type: "ack_policy", topic: TOPIC, share: 1, after_ms: 0 });
    await push(7);
    world.socket.receive({ type: "ack_policy", share: 0, after_ms: 0 });
    await push(8);
    assert.deepEqual(versions(), [7]);
  });

  it("does not ack what was confirmed and not changed", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.paint();
    await world.tick(0);
    world.socket.receive({ type: "current", topic: TOPIC, version: 5 }, snapshot(5, {}));
    world.paint();
    await world.tick(0);
    assert.equal(world.socket.ofType("ack").length, 1);
  });

  it("nacks with the reason when a listener throws, and still calls the others", async () => {
    const errors = mock.method(console, "error", () => {});
    const { shown } = await world.connect();
    world.topic.subscribe(() => {
      if (world.topic.getSnapshot().version) throw new Error("broken");
    });
    const late = [];
    world.topic.subscribe((snapshot) => late.push(snapshot.version));
    world.socket.receive(snapshot(5, {}));
    world.paint();
    await world.tick(0);
    const [nack] = world.socket.ofType("nack");
    assert.equal(nack.version, 5);
    assert.equal(nack.reason, "Error: broken");
    assert.equal(world.socket.ofType("ack").length, 0);
    assert.deepEqual([shown.at(-1).version, late.at(-1), errors.mock.callCount()], [5, 5, 1]);
  });
});

describe("expect", () => {
  it("is true once something newer is shown, which is acked at once", async () => {
    await world.connect({ welcome: { ack: { share: 0, after_ms: 9999 } }, frames: [snapshot(5, {})] });
    const promise = world.topic.expect({ timeoutMs: 20_000 });
    assert.deepEqual(world.socket.ofType("expect"), [{ type: "expect", topic: TOPIC, after: 5, timeout_ms: 20_000 }]);
    world.socket.receive({ type: "pending", topic: TOPIC, after: 5 });
    assert.deepEqual([world.topic.getSnapshot().reason, world.topic.getSnapshot().status], ["pending", "fresh"]);
    world.socket.receive({ type: "heartbeat", at: 2, fresh: true, verified_at: 1 });
    assert.equal(world.topic.getSnapshot().reason, "pending");
    world.socket.receive(snapshot(6, { plan: "pro" }));
    assert.equal(await promise, true);
    assert.equal(world.topic.getSnapshot().version, 6);
    world.paint();
    await world.tick(0);
    assert.deepEqual(
      world.socket.ofType("ack").map((ack) => ack.version),
      [6],
    );
    assert.equal(world.topic.getSnapshot().reason, "");
  });

  it("waits on when what comes is not newer than `after`", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    const promise = world.topic.expect({ after: 6 });
    world.socket.receive(snapshot(6, {}), { type: "patch", topic: TOPIC, base: 1, version: 9, patch: {} });
    assert.equal(world.topic.getSnapshot().reason, "pending");
    world.socket.receive(snapshot(9, {}));
    assert.equal(await promise, true);
  });

  it("asks again on a new socket", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.topic.expect({ after: 5, timeoutMs: 60_000 });
    world.socket.drop();
    await world.reconnect();
    assert.deepEqual(world.socket.ofType("expect"), [{ type: "expect", topic: TOPIC, after: 5, timeout_ms: 60_000 }]);
  });

  it("is false, and says `expired`, when nothing comes, connected or not", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.socket.drop();
    const promise = world.topic.expect({ timeoutMs: 3000 });
    await world.tick(3000);
    assert.equal(await promise, false);
    assert.equal(world.topic.getSnapshot().reason, "expired");
  });

  it("waits once for one version, however often it is called", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    const asked = () => world.socket.ofType("expect").map(({ after }) => after);
    const timeoutMs = 60_000;
    const promises = [5, 5, 6].map((after) => world.topic.expect({ after, timeoutMs }));
    assert.deepEqual(asked(), [5, 6]);
    world.socket.drop();
    await world.reconnect();
    assert.deepEqual(asked(), [5, 6]);
    world.socket.receive(snapshot(7, {}));
    assert.deepEqual(await Promise.all(promises), [true, true, true]);
    const later = world.topic.expect({ timeoutMs: 10 });
    await world.tick(10);
    assert.equal(await later, false);
    world.topic.expect();
    assert.deepEqual(asked(), [5, 6, 7, 7]);
  });

  it("names its checkout to the gateway, and waits once for each", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    const asked = () => world.socket.ofType("expect").map(({ after, checkout }) => [after, checkout]);
    const expected = [undefined, "txn_1", "txn_1", "cs_2"].map((checkout) =>
      world.topic.expect({ checkout, timeoutMs: 60_000 }),
    );
    const sent = [
      [5, undefined],
      [5, "txn_1"],
      [5, "cs_2"],
    ];
    assert.deepEqual(asked(), sent);
    world.socket.drop();
    await world.reconnect();
    assert.deepEqual(asked(), sent);
    world.socket.receive(snapshot(6, {}));
    assert.deepEqual(await Promise.all(expected), [true, true, true, true]);
  });

  for (const [what, frame, paint] of [
    ["a state", snapshot(5, { plan: "free" })],
    ["none", snapshot(0, null)],
    ["an old one on the page", snapshot(5, { plan: "free" }), { version: 3, state: {}, status: "stale" }],
    ["the one on the page", { type: "current", topic: TOPIC, version: 5 }, { version: 5, state: {}, status: "stale" }],
  ]) {
    it(`waits from the first confirmed version when a page comes back from a checkout: ${what}`, async () => {
      world.close();
      world = open({ initial: () => paint });
      const expected = world.topic.expect({ checkout: "cs_1", timeoutMs: 60_000 });
      const after = frame.version;
      await world.connect({ frames: [frame] });
      const sent = [{ type: "expect", topic: TOPIC, after, timeout_ms: 60_000, checkout: "cs_1" }];
      assert.deepEqual(world.socket.ofType("expect"), sent);
      assert.equal(world.topic.getSnapshot().reason, "pending");
      world.socket.drop();
      await world.reconnect({ type: "current", topic: TOPIC, version: after });
      assert.deepEqual(world.socket.ofType("expect"), sent, "asked again, once, for the same");
      world.socket.receive(snapshot(after + 1, { plan: "pro" }));
      assert.equal(await expected, true);
    });
  }

  it("is true without a newer version when the gateway says that the state contains the checkout", async () => {
    await world.connect({ frames: [snapshot(5, { plan: "pro" })] });
    const [own, other] = ["cs_1", "cs_2"].map((checkout) => world.topic.expect({ checkout, timeoutMs: 60_000 }));
    world.socket.receive({ type: "pending", topic: TOPIC, after: 5 });
    world.socket.receive({ type: "current", topic: TOPIC, version: 5 });
    assert.equal(world.topic.getSnapshot().reason, "pending");
    world.socket.receive({ type: "current", topic: TOPIC, version: 5, checkout: "cs_1" });
    assert.equal(await own, true);
    assert.equal(world.topic.getSnapshot().reason, "pending", "the other one");
    world.socket.receive({ type: "current", topic: TOPIC, version: 5, checkout: "cs_2" });
    assert.equal(await other, true);
    assert.equal(world.topic.getSnapshot().reason, "");
  });

  it("leaves the ack policy of the topic as the gateway gave it", async () => {
    await world.connect({ welcome: { ack: { share: 0, after_ms: 9999 } }, frames: [snapshot(5, {})] });
    world.topic.expect({ timeoutMs: 20_000 });
    for (const version of [6, 7, 8]) {
      world.socket.receive(snapshot(version, {}));
      world.paint();
      await world.tick(0);
    }
    assert.deepEqual(
      world.socket.ofType("ack").map((ack) => ack.version),
      [6],
    );
    world.topic.expect({ after: 9, timeoutMs: 20_000 });
    for (const version of [9, 10]) {
      world.socket.receive(snapshot(version, {}));
      world.paint();
      await world.tick(0);
    }
    assert.deepEqual(
      world.socket.ofType("ack").map((ack) => ack.version),
      [6, 10],
    );
  });

  it("is true at once when the newer version is already here, and says nothing later", async () => {
    const { shown } = await world.connect({ frames: [snapshot(5, {})] });
    assert.equal(await world.topic.expect({ after: 4, timeoutMs: 10 }), true);
    const count = shown.length;
    await world.tick(1000);
    assert.equal(shown.length, count);
  });
});

describe("denial", () => {
  it("of one topic leaves the others alone", async () => {
    const user = world.client.topic("user:42");
    await world.connect({ frames: [snapshot(5, {}), snapshot(6, {}, { topic: "user:42" })] });
    world.socket.receive({ type: "gone", topic: TOPIC, reason: "revoked" });
    assert.deepEqual([world.topic.getSnapshot().status, world.topic.getSnapshot().reason], ["denied", "revoked"]);
    world.socket.receive({ type: "heartbeat", at: 2, fresh: true, verified_at: 1 });
    assert.deepEqual([world.topic.getSnapshot().status, user.getSnapshot().status], ["denied", "fresh"]);
  });

  it("of the session is also that of a topic that is asked for later", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.socket.drop(4503);
    const { status, reason } = world.client.topic("user:42").getSnapshot();
    assert.deepEqual([status, reason], ["denied", 4503]);
  });

  it("does not follow from an event of the page while nothing is connected", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.topic.close();
    const again = world.client.topic(TOPIC);
    for (const type of ["online", "visibilitychange", "pagehide", "pageshow"]) world.fire(type);
    assert.equal(again.getSnapshot().status, "connecting");
    await world.tick(1e6);
    assert.equal(world.sockets.length, 1);
  });

  it("follows from `gone` with or without a reason, and from no other frame that has one", async () => {
    const user = world.client.topic("user:42");
    await world.connect({ frames: [snapshot(5, {}), snapshot(6, {}, { topic: "user:42" })] });
    world.socket.receive(
      { type: "gone", topic: TOPIC },
      { type: "current", topic: "user:42", version: 6, reason: "new field" },
    );
    assert.deepEqual([world.topic.getSnapshot().status, user.getSnapshot().status], ["denied", "fresh"]);
    world.socket.drop();
    assert.deepEqual([world.topic.getSnapshot().status, user.getSnapshot().status], ["denied", "stale"]);
  });

  it("follows from a forbidden topic, not from any other error", async () => {
    await world.connect({ frames: [snapshot(5, {})] });
    world.socket.receive({ type: "error", code: "unknown_type", message: "" });
    assert.equal(world.topic.getSnapshot().status, "fresh");
    world.socket.receive({ type: "error", code: "forbidden", message: "", topic: TOPIC });
    assert.deepEqual([world.topic.getSnapshot().status, world.topic.getSnapshot().reason], ["denied", "forbidden"]);
  });
});

describe("listeners", () => {
  it("are gone after unsubscribing, each on its own", async () => {
    const seen = [];
    const listener = (snapshot) => seen.push(snapshot.version);
    const first = world.topic.subscribe(listener);
    const second = world.topic.subscribe(listener);
    first();
    await world.connect({ frames: [snapshot(5, {})] });
    assert.deepEqual(seen, [0, 0, 5]);
    second();
    world.socket.receive(snapshot(6, {}));
    assert.deepEqual(seen, [0, 0, 5]);
  });
});
