import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { forget, injected, stored } from "../storage.js";
import { FakeSocket, TOPIC, WELCOME, open, settle, snapshot } from "./fakes.js";

class FakeStorage {
  getItem(key) {
    return this[key] ?? null;
  }
  setItem(key, value) {
    this[key] = value;
  }
  removeItem(key) {
    delete this[key];
  }
}

/** @type {any} */
let world;
let sockets;
beforeEach(() => {
  world = open();
  sockets = [];
  globalThis.localStorage = new FakeStorage();
});
afterEach(() => {
  delete globalThis.localStorage;
  world.close();
});

const visit = (options) =>
  stored({
    url: "https://live.example.com",
    subject: "ann",
    token: "jwt",
    socket: (url) => (sockets.push(new FakeSocket(url)), sockets.at(-1)),
    ...options,
  }).topic(TOPIC);

const accept = async (...frames) => {
  await settle();
  sockets.at(-1).accept();
  sockets.at(-1).receive(WELCOME, ...frames);
};

describe("a client that remembers", () => {
  it("shows the last state at once, as stale, frozen, and resumes from it", async () => {
    visit().subscribe(() => {});
    await accept(snapshot(5, { plan: { key: "pro" } }));
    const topic = visit();
    const seen = [];
    topic.subscribe((snapshot) => seen.push(snapshot));
    assert.deepEqual([seen[0].version, seen[0].status, seen[0].reason], [5, "stale", "stored"]);
    assert.ok(Object.isFrozen(seen[0].state.plan));
    await accept({ type: "current", topic: TOPIC, version: 5 });
    assert.deepEqual(sockets.at(-1).ofType("hello")[0].topics, { [TOPIC]: 5 });
    assert.equal(seen.at(-1).status, "fresh");
  });

  it("stores only what a gateway vouched for", async () => {
    visit().subscribe(() => {});
    await accept({ type: "heartbeat", at: 2, fresh: false, verified_at: 1 }, snapshot(5, {}));
    assert.deepEqual(Object.keys(localStorage), []);
  });

  it("keeps subjects and gateways apart", async () => {
    visit().subscribe(() => {});
    await accept(snapshot(5, {}));
    assert.equal(visit({ subject: "bob" }).getSnapshot().version, 0);
    assert.equal(visit({ url: "https://other.example.com" }).getSnapshot().version, 0);
  });

  for (const reason of ["revoked", "erased", "something new"])
    it(`forgets a topic that is gone (${reason}), and says so`, async () => {
      const topic = visit();
      topic.subscribe(() => {});
      await accept(snapshot(5, {}));
      assert.equal(Object.keys(localStorage).length, 1);
      sockets.at(-1).receive({ type: "gone", topic: TOPIC, reason });
      assert.deepEqual(Object.keys(localStorage), []);
      assert.deepEqual([topic.getSnapshot().status, topic.getSnapshot().reason], ["denied", reason]);
    });

  it("forgets a topic when the gateway refuses the client for good", async () => {
    visit().subscribe(() => {});
    await accept(snapshot(5, {}));
    sockets.at(-1).drop(4503);
    assert.deepEqual(Object.keys(localStorage), []);
  });

  it("forgets a subject at logout", () => {
    localStorage.setItem("planwire ann x tenant:acme", "{}");
    localStorage.setItem("planwire bob x tenant:acme", "{}");
    localStorage.setItem("something else", "{}");
    forget("ann");
    assert.deepEqual(Object.keys(localStorage), ["planwire bob x tenant:acme", "something else"]);
  });

  it("works where storage is refused or broken", async () => {
    Object.defineProperty(globalThis, "localStorage", {
      configurable: true,
      get() {
        throw new Error("SecurityError");
      },
    });
    const topic = visit();
    topic.subscribe(() => {});
    await accept(snapshot(5, {}));
    assert.equal(topic.getSnapshot().status, "fresh");
    forget("ann");
  });

  it("is one object for one topic, and starts anew after close", () => {
    const client = stored({ url: "u", subject: "ann", token: "t" });
    const topic = client.topic(TOPIC);
    assert.equal(client.topic(TOPIC), topic);
    topic.close();
    assert.notEqual(client.topic(TOPIC), topic);
  });
});

describe("what the server put into the page", () => {
  const page = (text) => {
    document.getElementById = (id) => (id == "planwire" ? { textContent: text } : null);
  };

  it("is the first paint, stale until confirmed", () => {
    page(JSON.stringify({ [TOPIC]: { version: 9, state: { plan: "pro" } } }));
    const { status, reason, version } = visit({ initial: injected() }).getServerSnapshot();
    assert.deepEqual([status, reason, version], ["stale", "page", 9]);
  });

  it("gives way to a newer stored one, and the other way round", () => {
    page(JSON.stringify({ [TOPIC]: { version: 9, state: {} } }));
    const key = `planwire ann https://live.example.com ${TOPIC}`;
    localStorage.setItem(key, JSON.stringify({ version: 10, state: {}, status: "stale" }));
    assert.equal(visit({ initial: injected() }).getSnapshot().version, 10);
    localStorage.setItem(key, JSON.stringify({ version: 8, state: {}, status: "stale" }));
    assert.equal(visit({ initial: injected() }).getSnapshot().version, 9);
  });

  it("is nothing where the page has none, or not this topic", () => {
    assert.equal(visit({ initial: injected() }).getSnapshot().status, "connecting");
    page("{}");
    assert.equal(visit({ initial: injected() }).getSnapshot().status, "connecting");
  });
});
