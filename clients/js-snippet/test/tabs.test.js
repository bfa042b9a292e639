import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it, mock } from "node:test";
import { planwire } from "../planwire.js";
import { tabs } from "../tabs.js";
import { FakeSocket, TOPIC, WELCOME, open, settle, snapshot } from "./fakes.js";

/** Web Locks of one origin: a queue for each name, stealing included. */
class FakeLocks {
  held = new Map();
  waiting = [];
  /** Set to a list: who is robbed hears of it only when the test says so. */
  late;

  request(name, { signal, steal }, callback) {
    return new Promise((resolve, reject) => {
      const entry = { name, callback, resolve, reject };
      signal?.addEventListener("abort", () => {
        if (!this.waiting.includes(entry)) return;
        this.waiting = this.waiting.filter((one) => one != entry);
        reject(new Error("AbortError"));
      });
      if (steal) {
        const tell = this.held.get(name)?.reject ?? (() => {});
        this.late ? this.late.push(tell) : tell(new Error("stolen"));
        this.held.delete(name);
        this.waiting.unshift(entry);
      } else this.waiting.push(entry);
      queueMicrotask(() => this.grant());
    });
  }

  grant() {
    for (const entry of this.waiting) {
      if (this.held.has(entry.name)) continue;
      this.waiting = this.waiting.filter((one) => one != entry);
      this.held.set(entry.name, entry);
      Promise.resolve(entry.callback({})).then((value) => {
        if (this.held.get(entry.name) == entry) this.held.delete(entry.name);
        entry.resolve(value);
        this.grant();
      });
    }
  }
}

/** A BroadcastChannel of one process; `deaf` ones are in a tab that hangs. */
class FakeChannel {
  static all = new Set();
  static deaf = new Set();
  static posted = [];
  onmessage = null;

  constructor(name) {
    this.name = name;
    FakeChannel.all.add(this);
  }

  postMessage(note) {
    const data = structuredClone(note);
    FakeChannel.posted.push(data);
    this.tab = data.from;
    for (const other of FakeChannel.all)
      if (other != this && other.name == this.name)
        queueMicrotask(() => FakeChannel.all.has(other) && !FakeChannel.deaf.has(other) && other.onmessage?.({ data }));
  }

  close() {
    FakeChannel.all.delete(this);
  }
}

/** @type {any} */
let world;
let sockets;
let before;
let listening;
beforeEach(() => {
  world = open();
  sockets = [];
  // Tabs tell each other apart by a draw; the same draws in each run.
  let seed = 1;
  world.random.mock.mockImplementation(() => (seed = (seed * 48271) % 2147483647) / 2147483647);
  FakeChannel.all.clear();
  FakeChannel.deaf.clear();
  FakeChannel.posted = [];
  before = globalThis.BroadcastChannel;
  globalThis.BroadcastChannel = FakeChannel;
  navigator.locks = new FakeLocks();
  listening = new Set();
  document.addEventListener = (type, listener, { signal }) => {
    assert.equal(type, "freeze");
    assert.ok(!signal.aborted);
    listening.add(listener);
    signal.addEventListener("abort", () => listening.delete(listener));
  };
});
afterEach(() => {
  globalThis.BroadcastChannel = before;
  world.close();
});

const tab = (options = {}) => {
  const socket = tabs({
    subject: "ann",
    socket: (url) => (sockets.push(new FakeSocket(url)), sockets.at(-1)),
    ...options,
  });
  const topic = planwire({ url: "https://live.example.com", token: "jwt", socket }).topic(options.topic ?? TOPIC);
  topic.subscribe(() => {});
  return topic;
};

/** The newest real socket is accepted and welcomed. */
const accept = async (...frames) => {
  await settle();
  sockets.at(-1).accept();
  sockets.at(-1).receive({ ...WELCOME, heartbeat_ms: 15_000 });
  await settle(); // the other tabs are welcomed, and subscribe
  sockets.at(-1).receive(...frames);
  await settle();
};

const LOCK = "planwire ann https://live.example.com/v1/connect";

/** Time goes by, in steps in which messages are delivered. */
const pass = async (ms) => {
  for (let n = 0; n < ms; n++) {
    mock.timers.tick(1);
    await settle();
  }
};

/** The browser freezes a tab. @param {number} n which of those that listen: 0 is the one that has longest */
const freeze = (n) => [...listening][n]();

/** The leader hears no message any more. @returns its channel */
const hang = () => {
  const leader = FakeChannel.posted.findLast(({ leads }) => leads).from;
  const channel = [...FakeChannel.all].find(({ tab }) => tab == leader);
  FakeChannel.deaf.add(channel);
  return channel;
};

const states = (topics) => topics.map((topic) => [topic.getSnapshot().version, topic.getSnapshot().status].join(" "));

describe("tabs of one subject", () => {
  it("share one socket: one hello, then a subscribe for each other tab", async () => {
    const topics = [tab(), tab(), tab({ topic: "user:42" })];
    await accept(snapshot(5, {}), snapshot(6, {}, { topic: "user:42" }));
    assert.equal(sockets.length, 1);
    assert.deepEqual(
      sockets[0].sent.map(({ type, topic }) => `${type} ${topic ?? ""}`),
      ["hello ", `subscribe ${TOPIC}`, "subscribe user:42"],
    );
    sockets[0].receive({ type: "current", topic: TOPIC, version: 5 }, snapshot(6, {}, { topic: "user:42" }));
    await settle();
    assert.deepEqual(states(topics), ["5 fresh", "5 fresh", "6 fresh"]);
  });

  it("see each patch, and one that missed its base asks alone", async () => {
    const topics = [tab(), tab()];
    await accept(snapshot(5, { a: 1 }));
    sockets[0].receive({ type: "patch", topic: TOPIC, base: 5, version: 6, patch: { b: 2 } });
    await settle();
    assert.deepEqual(
      topics.map((topic) => topic.getSnapshot().state),
      [
        { a: 1, b: 2 },
        { a: 1, b: 2 },
      ],
    );
  });

  it("join later with what they hold", async () => {
    tab();
    await accept(snapshot(5, {}));
    const late = tab();
    await settle();
    sockets[0].receive(snapshot(5, {}));
    await settle();
    assert.deepEqual(states([late]), ["5 fresh"]);
    assert.equal(sockets.length, 1);
  });

  it("ack a version once between them, and nack each", async () => {
    mock.method(console, "error", () => {});
    const [, second] = [tab(), tab()];
    await accept();
    second.subscribe(({ version }) => {
      if (version == 6) throw new Error("broken");
    });
    for (const version of [5, 6]) {
      sockets[0].receive(snapshot(version, {}));
      await settle();
      world.paint();
      await world.tick(0);
    }
    assert.deepEqual(
      sockets[0].ofType("ack").map((ack) => ack.version),
      [5, 6],
    );
    assert.equal(sockets[0].ofType("nack").length, 1);
  });

  it("leave a topic to the gateway only when no tab wants it", async () => {
    const topics = [tab(), tab(), tab({ topic: "user:42" })];
    await accept();
    topics[1].close();
    await settle();
    assert.equal(sockets[0].ofType("unsubscribe").length, 0);
    topics[2].close();
    await settle();
    assert.deepEqual(
      sockets[0].ofType("unsubscribe").map((frame) => frame.topic),
      ["user:42"],
    );
  });

  it("do not all renew the token: the leader does", async () => {
    tab();
    tab();
    await settle();
    sockets[0].accept();
    sockets[0].receive({ ...WELCOME, token_expires_at: 1000 });
    await settle();
    sockets[0].receive({ type: "heartbeat", at: 990e6, fresh: true, verified_at: 990e6 });
    await settle();
    assert.equal(sockets[0].ofType("token").length, 1);
  });

  it("are told when the socket is lost, and come back with one", async () => {
    const topics = [tab(), tab(), tab()];
    await accept(snapshot(5, {}));
    sockets[0].drop();
    await settle();
    assert.deepEqual(states(topics), ["5 stale", "5 stale", "5 stale"]);
    await world.tick(500);
    assert.equal(sockets.length, 2);
    await accept();
    assert.deepEqual(sockets[1].ofType("hello")[0].topics, { [TOPIC]: 5 });
  });

  it("are denied together", async () => {
    const topics = [tab(), tab()];
    await accept();
    sockets[0].drop(4503);
    await settle();
    assert.deepEqual(
      topics.map((topic) => topic.getSnapshot().status),
      ["denied", "denied"],
    );
  });

  it("do not share with another subject", async () => {
    tab();
    tab({ subject: "bob" });
    await settle();
    assert.equal(sockets.length, 2);
  });

  it("connect each for itself where locks are missing", async () => {
    delete navigator.locks;
    tab();
    tab();
    await settle();
    assert.equal(sockets.length, 2);
  });
});

describe("a leader that goes", () => {
  it("by closing hands over at once, and nobody is shown as stale", async () => {
    const topics = [tab(), tab(), tab()];
    await accept(snapshot(5, {}));
    sockets[0].receive(snapshot(5, {}));
    await settle();
    topics[0].close();
    await settle();
    assert.equal(sockets.length, 2);
    assert.ok(sockets[0].closedByClient);
    assert.deepEqual(states(topics.slice(1)), ["5 fresh", "5 fresh"]);
    await accept();
    assert.deepEqual(sockets[1].ofType("hello")[0].topics, { [TOPIC]: 5 });
    assert.deepEqual(
      sockets[1].ofType("subscribe").map((frame) => frame.version),
      [5],
    );
    sockets[1].receive(snapshot(6, {}));
    await settle();
    assert.deepEqual(states(topics.slice(1)), ["6 fresh", "6 fresh"]);
  });

  it("leaves nothing that is said too early to the new socket", async () => {
    const topics = [tab(), tab(), tab()];
    await accept(snapshot(5, {}));
    topics[0].close();
    await settle();
    world.paint(); // acks of the others, while the new leader is still connecting
    await world.tick(0);
    topics[1].expect({ after: 5 });
    topics[2].expect({ after: 5 });
    await settle();
    assert.deepEqual(sockets[1].sent, []);
    await accept();
    assert.equal(sockets[1].ofType("expect").length, 2);
  });

  it("by hanging before another tab came has its lock taken within 250 to 340 ms, by one of those who wait", async () => {
    navigator.locks.request(LOCK, {}, () => new Promise(() => {})).catch(() => {});
    await settle();
    const topics = [tab(), tab(), tab()];
    await world.tick(249);
    assert.equal(sockets.length, 0);
    await pass(91);
    assert.equal(sockets.length, 1);
    await accept(snapshot(7, {}));
    assert.deepEqual(states(topics), ["7 fresh", "7 fresh", "7 fresh"]);
  });

  it("without ever answering is left twice as long each time, and never longer than 4 s", async () => {
    const connect = tabs({ subject: "ann", socket: (url) => (sockets.push(new FakeSocket(url)), sockets.at(-1)) });
    for (const ms of [250, 500, 1000, 2000, 4000, 4000, 4000]) {
      navigator.locks.request(LOCK, { steal: true }, () => new Promise(() => {})).catch(() => {});
      await settle();
      assert.ok(
        sockets.every(({ closedByClient }) => closedByClient),
        "who is robbed lets go",
      );
      const count = sockets.length;
      connect("https://live.example.com/v1/connect").onclose = () => {};
      await pass(ms - 1);
      assert.equal(sockets.length, count);
      await pass(91);
      assert.equal(sockets.length, count + 1);
    }
  });

  it("by freezing hands over at once", async () => {
    const topics = [tab(), tab()];
    await accept(snapshot(5, {}));
    freeze(0);
    await settle();
    assert.equal(sockets.length, 2);
    assert.ok(sockets[0].closedByClient);
    await accept(snapshot(6, {}));
    await pass(1000);
    sockets[1].receive(snapshot(6, {}));
    await settle();
    assert.deepEqual(states(topics), ["6 fresh", "6 fresh"]);
    assert.equal(listening.size, 2, "who has left does not listen");
  });

  it("is not succeeded by a frozen tab", async () => {
    const topics = [tab(), tab(), tab()];
    await accept(snapshot(5, {}));
    sockets[0].receive(snapshot(5, {}));
    await settle();
    assert.equal(navigator.locks.waiting.length, 2);
    freeze(1);
    await settle();
    assert.equal(navigator.locks.waiting.length, 1);
    assert.deepEqual(states(topics), ["5 fresh", "5 stale", "5 fresh"]);
    topics[0].close();
    await accept(snapshot(6, {}));
    assert.equal(sockets.length, 2);
    assert.deepEqual(states(topics.slice(1)), ["5 stale", "6 fresh"]);
    await pass(1000);
    sockets[1].receive(snapshot(6, {}));
    await settle();
    assert.deepEqual(states(topics.slice(1)), ["6 fresh", "6 fresh"]);
    assert.equal(sockets.length, 2);
  });

  it("by hanging at any time is replaced within 1.4 s, and nobody is shown as stale", async () => {
    const topics = [tab(), tab(), tab()];
    await accept(snapshot(5, {}));
    sockets[0].receive(snapshot(5, {}));
    for (const [round, idle] of [0, 60, 120, 200].entries()) {
      await pass(idle);
      hang();
      const count = sockets.length;
      await pass(1400);
      // Two whose timeout ends in the same millisecond rob one another; the last one stays.
      assert.ok(sockets.length > count);
      assert.equal(sockets.filter(({ closedByClient }) => !closedByClient).length, 1);
      await accept(snapshot(6 + round, {}));
      await pass(1000); // the robbed one has come back as one of those who follow
      sockets.at(-1).receive(snapshot(6 + round, {}));
      await settle();
      assert.deepEqual(
        states(topics),
        topics.map(() => `${6 + round} fresh`),
      );
    }
  });

  it("by hanging is replaced in under 500 ms when somebody expects something", async () => {
    const topics = [tab(), tab(), tab()];
    await accept(snapshot(5, {}));
    sockets[0].receive(snapshot(5, {}));
    await settle();
    hang();
    topics[1].expect();
    await pass(499);
    assert.equal(sockets.length, 2);
    await accept(snapshot(6, {}));
    assert.deepEqual(sockets[1].ofType("expect").length, 1);
  });

  it("is not asked while nobody looks, and at once when somebody does", async () => {
    tab();
    tab();
    await accept(snapshot(5, {}));
    document.hidden = true;
    await pass(200);
    hang();
    FakeChannel.posted = [];
    await pass(5000);
    assert.deepEqual([sockets.length, FakeChannel.posted], [1, []]);
    document.hidden = false;
    await pass(499);
    assert.equal(sockets.length, 2);
  });

  it("answers once for all who look", async () => {
    for (let n = 0; n < 8; n++) tab();
    await accept(snapshot(5, {}));
    for (let beat = 0; beat < 5; beat++) {
      await pass(1000);
      if (beat) continue;
      FakeChannel.posted = []; // the tabs have settled
      sockets[0].sent = [];
    }
    assert.deepEqual(sockets[0].sent, []);
    const asked = FakeChannel.posted.filter(({ again }) => again).length;
    assert.ok(asked >= 3 && asked <= 12, `${asked} times in 4 s, not 28 times`);
  });

  it("that hung is heard by nobody, and hears nobody, until it knows that it was robbed", async () => {
    const topics = [tab(), tab(), tab()];
    await accept(snapshot(5, { n: 5 }));
    sockets[0].receive(snapshot(5, {}));
    await settle();
    navigator.locks.late = [];
    const old = hang();
    await pass(1400);
    assert.equal(sockets.length, 2);
    await accept(snapshot(7, { n: 7 }));
    const others = topics.filter((topic) => topic.getSnapshot().version == 7);
    assert.equal(others.length, 2);
    FakeChannel.deaf.delete(old); // it runs again, and finds what came meanwhile
    const said = sockets[0].sent.length;
    await pass(300);
    for (const channel of FakeChannel.all) old.postMessage({ from: old.tab, leads: true, to: channel.tab });
    sockets[1].receive(snapshot(8, { n: 8 }));
    await settle();
    assert.equal(sockets[0].sent.length, said);
    sockets[0].receive(snapshot(3, { n: 3 }, { reset: true }));
    sockets[0].drop(4503);
    await pass(300);
    assert.deepEqual(states(others), ["8 fresh", "8 fresh"]);
    assert.equal(sockets.length, 2);
  });

  it("that hung steps down and closes its socket when it hears that it was robbed", async () => {
    const topics = [tab(), tab()];
    await accept(snapshot(5, {}));
    navigator.locks.late = [];
    const old = hang();
    await pass(1400);
    await accept(snapshot(7, {}));
    assert.equal(sockets[0].closedByClient, false);
    FakeChannel.deaf.delete(old);
    navigator.locks.late.splice(0).forEach((tell) => tell(new Error("stolen")));
    await settle();
    assert.ok(sockets[0].closedByClient);
    await pass(1000);
    sockets[1].receive(snapshot(7, {}));
    await settle();
    assert.deepEqual(states(topics), ["7 fresh", "7 fresh"]);
    assert.equal(sockets.length, 2);
  });

  it("is left in peace while it answers, connected or not", async () => {
    tab();
    tab();
    await world.tick(5000);
    assert.equal(sockets.length, 1);
  });

  it("steps down when it is robbed", async () => {
    const topic = tab();
    await accept(snapshot(5, {}));
    navigator.locks.request(LOCK, { steal: true }, () => new Promise(() => {}));
    await settle();
    assert.ok(sockets[0].closedByClient);
    assert.deepEqual(states([topic]), ["5 stale"]);
  });

  it("is asked whether its own socket is alive when another tab comes", async () => {
    tab();
    await accept(snapshot(5, {}));
    mock.timers.setTime(Date.now() + 60_000); // its timers are throttled
    tab();
    await settle();
    assert.ok(sockets[0].closedByClient);
  });
});
