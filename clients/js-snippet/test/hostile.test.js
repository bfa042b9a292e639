/** Keys that every JavaScript object inherits, in states and in the names that a page asks for; and a page that adds more. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { provider } from "../openfeature.js";
import { stored } from "../storage.js";
import { tabs } from "../tabs.js";
import { TOPIC, open, snapshot } from "./fakes.js";

const INHERITED = ["__proto__", "constructor", "hasOwnProperty", "toString", "valueOf", "__defineGetter__"];

/** @type {any} */
let world;
beforeEach(() => (world = open()));
afterEach(() => world.close());

describe("names that objects inherit", () => {
  it("are no features, limits or modules of a state that does not have them", async () => {
    await world.connect({ frames: [snapshot(1, { features: {}, limits: { list: [1] } })] });
    const flags = provider(world.topic);
    for (const name of INHERITED)
      for (const key of [name, `features.${name}`, `limits.list.${name}`, `${name}.${name}`]) {
        const expected = { value: "default", reason: "DEFAULT" };
        assert.deepEqual(flags.resolveStringEvaluation(key, "default"), expected, key);
        assert.deepEqual(flags.resolveObjectEvaluation(key, "default"), expected, key);
      }
  });

  it("are features where a state has them", async () => {
    const features = JSON.parse(`{${INHERITED.map((name) => `"${name}":true`)}}`);
    await world.connect({ frames: [snapshot(1, { features })] });
    const flags = provider(world.topic);
    for (const name of INHERITED) {
      assert.equal(flags.resolveBooleanEvaluation(name, false).value, true, name);
      assert.equal(flags.resolveBooleanEvaluation(`features.${name}`, false).value, true, name);
    }
  });

  it("show nothing in an element, unless a state has them", async () => {
    /** @type {Record<string, any>} */
    const made = {};
    Object.assign(globalThis, {
      HTMLElement: class {
        /** @type {Record<string, string>} */
        attributes = {};
        textContent = "kept";
        getAttribute = (/** @type {string} */ name) => this.attributes[name] ?? null;
        setAttribute = (/** @type {string} */ name, /** @type {string} */ value) => (this.attributes[name] = value);
      },
      customElements: { define: (/** @type {string} */ name, /** @type {any} */ element) => (made[name] = element) },
    });
    const { define } = await import("../elements.js");
    define(world.topic);
    const shown = (/** @type {string} */ name, /** @type {Record<string, string>} */ attributes) => {
      const element = Object.assign(new made[name](), { attributes });
      element.connectedCallback();
      element.disconnectedCallback();
      return element;
    };
    await world.connect({ frames: [snapshot(1, { features: {}, plan: { name: "Pro" } })] });
    for (const name of INHERITED) {
      assert.equal(shown("pw-if", { feature: name }).hidden, true, name);
      assert.equal(shown("pw-if", { path: name }).hidden, true, name);
      assert.equal(shown("pw-value", { path: `plan.${name}` }).textContent, "kept", name);
    }
    world.socket.receive(
      snapshot(2, JSON.parse('{"features":{"__proto__":true,"toString":true},"plan":{"__proto__":"x"}}')),
    );
    assert.equal(shown("pw-if", { feature: "__proto__" }).hidden, false);
    assert.equal(shown("pw-if", { feature: "toString" }).hidden, false);
    assert.equal(shown("pw-value", { path: "plan.__proto__" }).textContent, "x");
  });
});

describe("a state with __proto__", () => {
  const STATE = '{"__proto__":{"admin":true},"a":{"__proto__":1}}';

  it("is the same from storage", async () => {
    /** @type {Record<string, string>} */
    const memory = { __proto__: /** @type {any} */ (null) };
    Object.assign(globalThis, {
      localStorage: {
        getItem: (/** @type {string} */ key) => memory[key] ?? null,
        setItem: (/** @type {string} */ key, /** @type {string} */ text) => (memory[key] = text),
        removeItem: (/** @type {string} */ key) => delete memory[key],
      },
    });
    const visit = () => {
      world.close();
      world = open();
      const client = stored({
        subject: "ann",
        url: "https://a.example",
        token: "t",
        socket: () => (world.made = new Socket()),
      });
      return client.topic(TOPIC);
    };
    class Socket {
      /** @type {any} */ onopen;
      /** @type {any} */ onmessage;
      send() {}
      close() {}
    }
    visit().subscribe(() => {});
    await world.tick(0);
    world.made.onopen({});
    const say = (/** @type {string} */ data) => world.made.onmessage({ data });
    say('{"type":"welcome","session":"s","heartbeat_ms":1000,"fresh":true,"reconnect":{},"ack":{"share":0}}');
    say(`{"type":"snapshot","topic":"${TOPIC}","version":1,"state":{"a":{}}}`);
    say(`{"type":"patch","topic":"${TOPIC}","base":1,"version":2,"patch":${STATE}}`);
    const { state, version, status } = visit().getSnapshot();
    assert.deepEqual(
      [JSON.stringify(state.__proto__), state.admin, version, status],
      ['{"admin":true}', undefined, 2, "stale"],
    );
    assert.deepEqual(Object.keys(state).sort(), ["__proto__", "a"]);
    assert.deepEqual(Object.keys(state.a), ["__proto__"]);
    assert.deepEqual(Object.keys(Object.prototype), []);
  });
});

describe("a page that adds to Object.prototype", () => {
  const before = Object.getOwnPropertyNames(Object.prototype);
  beforeEach(() => /** @type {any} */ ((Object.prototype).extend = () => 1));
  afterEach(() => {
    for (const name of Object.getOwnPropertyNames(Object.prototype))
      if (!before.includes(name)) delete (/** @type {any} */ (Object.prototype)[name]);
  });

  it("follows all the same, and its additions are no part of a state", async () => {
    await world.connect({
      frames: [
        snapshot(1, { a: { b: 1 } }),
        { type: "patch", topic: TOPIC, base: 1, version: 2, patch: { a: { c: 2 } } },
      ],
    });
    assert.deepEqual(world.socket.ofType("hello")[0].topics, { [TOPIC]: 0 });
    const { state, status } = world.topic.getSnapshot();
    assert.deepEqual([Object.keys(state), Object.keys(state.a), status], [["a"], ["b", "c"], "fresh"]);
    world.topic.close();
    assert.ok(world.socket.closedByClient, "the last topic closes the socket");
  });

  it("shares a socket", async () => {
    world.close();
    /** @type {any[]} */
    const sockets = [];
    const channel = class {
      postMessage() {}
      close() {}
    };
    world = open();
    Object.defineProperty(globalThis, "navigator", {
      value: {
        onLine: true,
        locks: { request: async (/** @type {any} */ _name, /** @type {any} */ _how, /** @type {any} */ use) => use() },
      },
      configurable: true,
      writable: true,
    });
    /** @type {any} */ (globalThis.document).addEventListener = () => {};
    const { BroadcastChannel } = globalThis;
    Object.assign(globalThis, { BroadcastChannel: channel });
    try {
      const line = tabs({
        subject: "ann",
        socket: () => (
          sockets.push({
            sent: [],
            send: (/** @type {string} */ text) => sockets[0].sent.push(JSON.parse(text)),
            close() {},
          }),
          sockets[0]
        ),
      })("wss://a.example");
      line.onopen = line.onmessage = line.onclose = () => {};
      await world.tick(0);
      sockets[0].onopen({});
      line.send(JSON.stringify({ type: "hello", token: "t", topics: { [TOPIC]: 0 } }));
      line.send(JSON.stringify({ type: "hello", token: "t", topics: { [TOPIC]: 0 } }));
      assert.deepEqual(
        sockets[0].sent.map((/** @type {any} */ { type, topic }) => [type, topic]),
        [
          ["hello", undefined],
          ["subscribe", TOPIC],
        ],
      );
      line.close();
    } finally {
      Object.assign(globalThis, { BroadcastChannel });
    }
  });
});
