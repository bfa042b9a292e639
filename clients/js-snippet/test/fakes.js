/**
 * A gateway's side of the socket, a window and a clock, all driven by the test.
 *
 * How to use: `const world = open()` in each test; `world.socket` is the newest socket that the client made,
 * `world.tick(ms)` moves time, `world.fire("online")` fires a window event. `world.close()` puts the globals back.
 */
import { mock } from "node:test";
import { planwire } from "../planwire.js";

export class FakeSocket {
  readyState = 0;
  sent = [];
  onopen = null;
  onmessage = null;
  onclose = null;
  closedByClient = false;
  listeners = [];

  constructor(url) {
    this.url = url;
  }

  send(text) {
    if (!this.readyState) throw new Error("InvalidStateError: still connecting");
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closedByClient = true;
    this.readyState = 3;
  }

  accept() {
    this.readyState = 1;
    this.onopen?.({ type: "open" });
  }

  addEventListener(type, listener, { once }) {
    if (type != "message" || !once) throw new Error("only what fallback.js uses");
    this.listeners.push(listener);
  }

  receive(...frames) {
    this.listeners.splice(0).forEach((listener) => listener());
    for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** The other side closes. */
  drop(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ type: "close", code });
  }

  /** Frames of one type that the client sent. */
  ofType(type) {
    return this.sent.filter((frame) => frame.type == type);
  }
}

export const TOPIC = "tenant:acme";

export const WELCOME = {
  type: "welcome",
  session: "s_1",
  heartbeat_ms: 1000,
  fresh: true,
  token_expires_at: 4_000_000_000,
  reconnect: { min_ms: 500, max_ms: 30_000 },
  ack: { share: 1, after_ms: 0 },
};

export const snapshot = (version, state, more = {}) => ({ type: "snapshot", topic: TOPIC, version, state, ...more });

/** Lets every promise that is ready run. */
export const settle = async () => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
};

const GLOBALS = ["addEventListener", "navigator", "document", "requestAnimationFrame"];

export const open = (options = {}) => {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
  const before = GLOBALS.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  const define = (name, value) =>
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  const listeners = new Map();
  const frames = [];
  define("addEventListener", (type, fn) => listeners.set(type, (listeners.get(type) ?? new Set()).add(fn)));
  define("navigator", { onLine: true });
  define("document", { hidden: false });
  define("requestAnimationFrame", (fn) => frames.push(fn));

  const sockets = [];
  let draws = [];
  const random = mock.method(Math, "random", () => (draws.length ? draws.shift() : 0.5));
  const client = planwire({
    url: "https://live.example.com",
    token: () => "jwt",
    socket: (url) => (sockets.push(new FakeSocket(url)), sockets.at(-1)),
    ...options,
  });
  return {
    client,
    topic: client.topic(TOPIC),
    sockets,
    listeners,
    random,
    /** What the next draws of randomness give. */
    draw: (...values) => (draws = values),
    get socket() {
      return sockets.at(-1);
    },
    fire: (type) => listeners.get(type)?.forEach((fn) => fn({ type })),
    paint: () => frames.splice(0).forEach((fn) => fn()),
    tick: async (ms) => {
      await settle();
      mock.timers.tick(ms);
      await settle();
    },
    /** Subscribes, connects, and is welcomed. */
    async connect({ welcome = {}, frames: first = [] } = {}) {
      const shown = [];
      const unsubscribe = this.topic.subscribe((snapshot) => shown.push(snapshot));
      await settle();
      this.socket.accept();
      this.socket.receive({ ...WELCOME, ...welcome }, ...first);
      return { shown, unsubscribe };
    },
    /** The next socket, after the client's wait, welcomed. */
    async reconnect(...first) {
      const count = sockets.length;
      await this.tick(30_000);
      if (sockets.length == count) throw new Error("the client did not come back");
      this.socket.accept();
      this.socket.receive(WELCOME, ...first);
    },
    close() {
      mock.timers.reset();
      mock.restoreAll();
      for (const [name, descriptor] of before)
        descriptor ? Object.defineProperty(globalThis, name, descriptor) : delete globalThis[name];
    },
  };
};
