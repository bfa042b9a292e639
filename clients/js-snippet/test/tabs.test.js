import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it, mock } from "node:test";
import { planwire } from "../planwire.js";
import { tabs } from "../tabs.js";
import { FakeSocket, TOPIC, WELCOME, open, settle, snapshot } from "./fakes.js";

/** Web Locks of one origin: a queue for each name, stealing included. */
class FakeLocks {
  held = new Map();
  waiting = [];

  request(name, { signal, steal }, callback) {
    return new Promise((resolve, reject) => {
      const entry = { name, callback, resolve, reject };
      signal?.addEventListener("abort", () => {
        if (!this.waiting.includes(entry)) return;
        this.waiting = this.waiting.filter((one) => one != entry);
        reject(new Error("AbortError"));
      });
      if (steal) {
        this.held.get(name)?.reject(new Error("stolen"));
        this.held.delete(name);
        this.waiting.unshift(entry);
      } else this.waiting.push(entry);
      queueMicrotask(() => this.grant());
    });
  }

  grant() {
    for (const entry of [...this.waiting]) {
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
  onmessage = null;

  constructor(name) {
    this.name = name;
    FakeChannel.all.add(this);
  }

  postMessage(note) {
    const data = structuredClone(note);
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
beforeEach(() => {
  world = open();
  sockets = [];
  world.random.mock.restore(); // tabs tell each other apart by a draw
  FakeChannel.all.clear();
  FakeChannel.deaf.clear();
  before = globalThis.BroadcastChannel;
  globalThis.BroadcastChannel = FakeChannel;
  navigator.locks = new FakeLocks();
  const frozen = new Set();
  document.addEventListener = (type, fn) => type == "freeze" && frozen.add(fn);
  document.removeEventListener = (type, fn) => frozen.delete(fn);
  document.freeze = () => [...frozen].forEach((fn) => fn());
});
afterEach(() => {
  globalThis.BroadcastChannel = before;
  world.close();
});

const tab = (options = {}) => {
  const socket = tabs({ subject: "ann", socket: (url) => (sockets.push(new FakeSocket(url)), sockets.at(-1)), ...options });
  const topic = planwire({ url: "https://live.example.com", token: "jwt", socket }).topic(options.topic ?? TOPIC);
  topic.subscribe(() => {});
  return topic;
};

/** The newest real socket is accepted and welcomed. */
const accept = async (...frames) => {
  await settle();
  sockets.at(-1).accept();
  sockets.at(-1).receive(WELCOME);
  await settle(); // the other tabs are welcomed, and subscribe
  sockets.at(-1).receive(...frames);
  await settle();
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
    assert.deepEqual(topics.map((topic) => topic.getSnapshot().state), [{ a: 1, b: 2 }, { a: 1, b: 2 }]);
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
    assert.deepEqual(sockets[0].ofType("ack").map((ack) => ack.version), [5, 6]);
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
    assert.deepEqual(sockets[0].ofType("unsubscribe").map((frame) => frame.topic), ["user:42"]);
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
    assert.deepEqual(topics.map((topic) => topic.getSnapshot().status), ["denied", "denied"]);
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
    assert.deepEqual(sockets[1].ofType("subscribe").map((frame) => frame.version), [5]);
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

  it("by freezing hands over at once", async () => {
    tab();
    tab();
    await accept(snapshot(5, {}));
    document.freeze();
    await settle();
    assert.equal(sockets.length, 2);
  });

  it("by hanging has its lock taken within 300 to 500 ms, by one of those who wait", async () => {
    navigator.locks.request("planwire ann https://live.example.com/v1/connect", {}, () => new Promise(() => {})).catch(() => {});
    await settle();
    const topics = [tab(), tab(), tab()];
    await world.tick(299);
    assert.equal(sockets.length, 0);
    for (let ms = 299; ms < 500; ms++) await world.tick(1);
    assert.equal(sockets.length, 1);
    await accept(snapshot(7, {}));
    assert.deepEqual(states(topics), ["7 fresh", "7 fresh", "7 fresh"]);
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
    navigator.locks.request("planwire ann https://live.example.com/v1/connect", { steal: true }, () => new Promise(() => {}));
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
