import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { fallback } from "../fallback.js";
import { planwire } from "../planwire.js";
import { FakeSocket, TOPIC, WELCOME, open, settle, snapshot } from "./fakes.js";

/** @type {any} */
let world;
/** @type {any[]} */
let requests;
let sockets;
let before;
let count;

/** An answer whose body the test writes to; it ends when the request is aborted. */
class FakeAnswer {
  constructor(url, { headers, signal }) {
    Object.assign(this, { url, headers, signal });
    this.body = new ReadableStream({ start: (controller) => (this.controller = controller) });
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      signal.addEventListener("abort", () => {
        reject(new Error("AbortError"));
        try {
          this.controller.error(new Error("AbortError"));
        } catch {}
      });
    });
  }

  stream(status = 200) {
    this.resolve({ status, ok: status == 200, body: this.body });
  }

  write(...frames) {
    for (const frame of frames)
      this.controller.enqueue(
        new TextEncoder().encode(`event: ${frame.type}\nid: 1\ndata: ${JSON.stringify(frame)}\n\n`),
      );
  }

  json(body, status = 200) {
    this.resolve({ status, ok: status == 200, json: async () => body });
  }
}

beforeEach(() => {
  world = open();
  requests = [];
  sockets = [];
  count = 0;
  before = globalThis.fetch;
  globalThis.fetch = (url, options) => {
    requests.push(new FakeAnswer(url, options));
    return requests.at(-1).promise;
  };
});
afterEach(() => {
  globalThis.fetch = before;
  world.close();
});

/** Lets streams move too: they need real turns of the event loop. */
const turns = async () => {
  for (let n = 0; n < 5; n++) {
    await new Promise(setImmediate);
    await settle();
  }
};

const start = (topic = TOPIC) => {
  const client = planwire({
    url: "https://live.example.com",
    token: () => `jwt-${++count}`,
    socket: fallback({ socket: (url) => (sockets.push(new FakeSocket(url)), sockets.at(-1)) }),
  });
  client.topic(topic).subscribe(() => {});
  return client.topic(topic);
};

/** Two sockets in a row fail without a word. */
const block = async () => {
  for (let n = 0; n < 2; n++) {
    await settle();
    sockets.at(-1).drop();
    await world.tick(1000);
  }
  await world.tick(1);
  await turns();
};

describe("where WebSockets work", () => {
  it("is a WebSocket, over any number of reconnects", async () => {
    const topic = start();
    for (let n = 1; n < 5; n++) {
      await settle();
      sockets.at(-1).accept();
      sockets.at(-1).receive(WELCOME, snapshot(n, {}));
      assert.equal(topic.getSnapshot().status, "fresh");
      sockets.at(-1).drop();
      await world.tick(1000);
    }
    assert.equal(requests.length, 0);
  });
});

describe("where WebSockets are blocked", () => {
  it("follows each topic by an event stream, the token in a header", async () => {
    const topic = start();
    await block();
    assert.equal(requests[0].url, `https://live.example.com/v1/state/${TOPIC}/events`);
    assert.equal(requests[0].headers.Authorization, "Bearer jwt-1");
    requests[0].stream();
    requests[0].write({ type: "heartbeat", at: 2, fresh: true, verified_at: 1 }, snapshot(5, { plan: "pro" }));
    await turns();
    assert.deepEqual([topic.getSnapshot().status, topic.getSnapshot().version], ["fresh", 5]);
    assert.equal(sockets.length, 2);
  });

  it("puts events together that come in pieces", async () => {
    const topic = start();
    await block();
    requests[0].stream();
    const bytes = new TextEncoder().encode(
      `: planwire\nretry: 500\n\nevent: snapshot\ndata: ${JSON.stringify(snapshot(5, { plan: "prö" }, { fresh: true }))}\n\n`,
    );
    for (const byte of bytes) requests[0].controller.enqueue(Uint8Array.of(byte));
    for (let n = 0; n < 60; n++) await turns();
    assert.deepEqual(topic.getSnapshot().state, { plan: "prö" });
  });

  it("resumes from the version held", async () => {
    const topic = start();
    await block();
    requests[0].stream();
    requests[0].write(snapshot(5, {}, { fresh: true }));
    await turns();
    requests[0].controller.close();
    await turns();
    assert.equal(topic.getSnapshot().status, "stale");
    await world.tick(1000);
    sockets.at(-1).drop(); // one more try of the real thing
    await world.tick(1000);
    await world.tick(1);
    await turns();
    assert.equal(requests.at(-1).headers["Last-Event-ID"], 5);
  });

  it("fetches a new token when the old one is refused or has expired", async () => {
    start();
    await block();
    requests[0].stream(401);
    await turns();
    await world.tick(1000);
    sockets.at(-1).accept();
    assert.equal(sockets.at(-1).sent[0].token, "jwt-2");
  });

  it("is denied where the topic is forbidden", async () => {
    const topic = start();
    await block();
    requests[0].stream(403);
    await turns();
    assert.deepEqual([topic.getSnapshot().status, topic.getSnapshot().reason], ["denied", "forbidden"]);
  });

  it("ends its requests when the topic is closed", async () => {
    const topic = start();
    await block();
    topic.close();
    assert.ok(requests[0].signal.aborted);
  });

  it("polls where streams are held back: the state, then whatever is newer", async () => {
    const topic = start();
    await block();
    requests[0].stream(); // and never a byte
    await world.tick(5000);
    await turns();
    assert.ok(requests[0].signal.aborted);
    assert.equal(requests[1].url, `https://live.example.com/v1/state/${TOPIC}`);
    requests[1].json({ topic: TOPIC, version: 5, state: { plan: "free" } });
    await turns();
    assert.deepEqual([topic.getSnapshot().status, topic.getSnapshot().version], ["fresh", 5]);
    assert.equal(requests[2].url, `https://live.example.com/v1/state/${TOPIC}?min_version=6&wait_ms=20000`);
    requests[2].json({ version: 5, code: "behind" }, 504);
    await turns();
    assert.equal(topic.getSnapshot().status, "fresh");
    assert.equal(requests.length, 3, "a gateway that does not wait is not asked again at once");
    await world.tick(500);
    await turns();
    requests[3].json({ topic: TOPIC, version: 6, state: { plan: "pro" } });
    await turns();
    assert.deepEqual(topic.getSnapshot().state, { plan: "pro" });
  });

  it("polls where streams are refused, and not where one ends that has spoken", async () => {
    const topic = start();
    await block();
    requests[0].resolve({ status: 502, ok: false });
    await turns();
    assert.equal(requests[1].url, `https://live.example.com/v1/state/${TOPIC}`);
    requests[1].json({ topic: TOPIC, version: 5, state: {} });
    await turns();
    assert.deepEqual([topic.getSnapshot().status, topic.getSnapshot().version], ["fresh", 5]);
  });

  it("is denied when the topic is gone, whatever the reason", async () => {
    const topic = start();
    await block();
    requests[0].stream();
    requests[0].write(snapshot(5, {}, { fresh: true }), { type: "gone", topic: TOPIC, reason: "erased" });
    await turns();
    assert.deepEqual([topic.getSnapshot().status, topic.getSnapshot().reason], ["denied", "erased"]);
  });

  it("goes back to WebSockets when HTTP does not work either", async () => {
    start();
    await block();
    const tried = sockets.length;
    requests[0].stream(503);
    await turns();
    requests[1].json({}, 503);
    await turns();
    await world.tick(30_000);
    assert.equal(sockets.length, tried + 1);
  });
});
