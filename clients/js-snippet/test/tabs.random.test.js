/**
 * Any interleaving of tabs that come, go, crash, hide, freeze and hang, on machines of any slowness: in the end one tab
 * holds the one socket, and all show the newest version.
 *
 * Each tab is an event loop of its own (timers, messages, locks and sockets reach it only while it does not hang), the
 * lock manager is a process of its own, and everything between them takes a while that is drawn. Everything follows from
 * the seed: `SEED=7 ROUNDS=1 node --test test/tabs.random.test.js` runs one case again, `ROUNDS=20000` searches.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { planwire } from "../planwire.js";
import { tabs } from "../tabs.js";
import { TOPIC, WELCOME, settle } from "./fakes.js";

const FIRST = Number(process.env.SEED ?? 78);
const ROUNDS = Number(process.env.ROUNDS ?? 20);
const TABS = 5;
const HEARTBEAT_MS = 15_000;

/** Every page's window is looked up here while a task of that page runs. */
const GLOBALS = [
  "addEventListener",
  "navigator",
  "document",
  "requestAnimationFrame",
  "BroadcastChannel",
  "setTimeout",
  "clearTimeout",
];

/** One machine: a clock, its tabs, its lock manager and the gateway. */
class Machine {
  now = 1_800_000_000_000;
  count = 0;
  tasks = []; // a heap
  tabs = [];
  version = 1;
  held = null;
  waiting = [];
  opened = 0;
  latest = new Map();
  isCalm = false;

  constructor(seed, { taskMs = 1, wireMs = 5, isOrderly = true } = {}) {
    this.seed = (seed * 7919 + 1) % 2147483647;
    Object.assign(this, { taskMs, wireMs, isOrderly });
  }

  draw = () => (this.seed = (this.seed * 48271) % 2147483647) / 2147483647;
  upTo = (n) => Math.floor(this.draw() * n);
  of = (list) => list[this.upTo(list.length)];
  get alive() {
    return this.tabs.filter((tab) => !tab.isGone);
  }

  /** Runs `fn` after `ms`, in `tab` (none: in a process of its own); never before what the same `lane` carried earlier. */
  plan(ms, tab, fn, lane) {
    let at = this.now + ms;
    if (lane) this.latest.set(lane, (at = Math.max(at, this.latest.get(lane) ?? 0)));
    return this.push({ at, order: this.count++, tab, fn });
  }

  push(task) {
    const { tasks } = this;
    let n = tasks.push(task) - 1;
    for (let up; n && isBefore(task, tasks[(up = (n - 1) >> 1)]); n = up) [tasks[n], tasks[up]] = [tasks[up], task];
    return task;
  }

  pop() {
    const { tasks } = this;
    const [first] = tasks;
    const last = tasks.pop();
    if (!tasks.length) return first;
    tasks[0] = last;
    for (let n = 0, down; (down = 2 * n + 1) < tasks.length; n = down) {
      if (down + 1 < tasks.length && isBefore(tasks[down + 1], tasks[down])) down++;
      if (!isBefore(tasks[down], last)) break;
      [tasks[n], tasks[down]] = [tasks[down], last];
    }
    return first;
  }

  /** How long something is under way between two processes. */
  wire = () => this.draw() * this.wireMs;

  async run(ms) {
    const end = this.now + ms;
    while (this.tasks.length && this.tasks[0].at <= end) {
      const task = this.pop();
      const { tab } = task;
      if (tab?.isGone || task.isCancelled) continue;
      this.now = task.at;
      if (tab && tab.busyUntil > this.now) {
        this.push({
          ...task,
          at: tab.busyUntil,
          get isCancelled() {
            return task.isCancelled;
          },
        });
        continue;
      }
      await this.inside(tab, task.fn);
    }
    this.now = end;
  }

  async inside(tab, fn) {
    current = tab;
    fn();
    await settle();
    current = null;
    if (tab) {
      tab.busyUntil = Math.max(tab.busyUntil, this.now + this.draw() * this.taskMs);
      const mine = tab.sockets.filter(({ readyState }) => readyState < 2);
      assert.ok(mine.length < 2, `tab ${tab.n} has ${mine.length} sockets`);
    }
  }

  // The lock manager, and what it says to a tab. A steal is told to who is robbed before it is to the thief, if orderly.
  tell(entry, fn) {
    this.plan(this.wire(), entry.tab, fn, this.isOrderly && `locks ${entry.tab.n}`);
  }

  request(entry) {
    if (entry.tab.isGone || entry.isAborted) return;
    if (entry.steal) {
      const { held } = this;
      if (held) this.tell(held, () => held.reject(new Error("AbortError: stolen")));
      this.held = null;
      this.waiting.unshift(entry);
    } else this.waiting.push(entry);
    this.grant();
  }

  grant() {
    if (this.held || !this.waiting.length) return;
    const entry = (this.held = this.waiting.shift());
    this.tell(entry, () => {
      if (entry.isAborted) return this.giveBack(entry);
      entry.isGranted = true;
      Promise.resolve(entry.callback({})).then((value) => {
        entry.resolve(value);
        this.giveBack(entry);
      });
    });
  }

  giveBack(entry) {
    this.plan(this.wire(), null, () => this.forget((one) => one == entry), `asks ${entry.tab.n}`);
  }

  forget(isIt) {
    this.waiting = this.waiting.filter((one) => !isIt(one));
    if (this.held && isIt(this.held)) this.held = null;
    this.grant();
  }

  publish() {
    this.version++;
    for (const tab of this.alive) for (const socket of tab.sockets) socket.wants && socket.news(this.version - 1);
  }
}

const isBefore = (one, other) => one.at - other.at < 0 || (one.at == other.at && one.order < other.order);

/** @type {any} the tab whose task runs */
let current;

/** A page's window, as far as the client looks at it. */
class Tab {
  busyUntil = 0;
  sockets = [];
  channels = [];
  windowed = new Map();
  frozen = new Set();

  constructor(machine) {
    this.machine = machine;
    this.n = machine.tabs.push(this);
    const tab = this;
    this.document = {
      hidden: false,
      addEventListener: (_, listener, { signal }) => {
        this.frozen.add(listener);
        signal.addEventListener("abort", () => this.frozen.delete(listener));
      },
    };
    this.navigator = { onLine: true, locks: { request: (...args) => this.request(...args) } };
    this.setTimeout = (fn, ms = 0) => machine.plan(ms, this, fn);
    this.clearTimeout = (task) => task && (task.isCancelled = true);
    this.requestAnimationFrame = (fn) => this.setTimeout(fn, 16);
    this.addEventListener = (type, fn) => this.windowed.set(type, [...(this.windowed.get(type) ?? []), fn]);
    this.BroadcastChannel = class {
      constructor() {
        tab.channels.push(this);
      }

      postMessage(note) {
        const data = structuredClone(note);
        for (const other of machine.alive)
          if (other != tab)
            for (const channel of other.channels)
              machine.plan(
                machine.wire(),
                other,
                () => other.channels.includes(channel) && channel.onmessage?.({ data }),
                `bus ${tab.n} ${other.n}`,
              );
      }

      close() {
        tab.channels = tab.channels.filter((one) => one != this);
      }
    };
    machine.plan(0, this, () => {
      const socket = tabs({ subject: "ann", socket: () => new Line(tab) });
      this.topic = planwire({ url: "https://live.example.com", token: async () => "jwt", socket }).topic(TOPIC);
      this.topic.subscribe(() => {});
    });
  }

  request(name, { signal, steal }, callback) {
    const { machine } = this;
    return new Promise((resolve, reject) => {
      const entry = { tab: this, steal, callback, resolve, reject };
      signal?.addEventListener("abort", () => {
        if (entry.isGranted) return;
        entry.isAborted = true;
        reject(new Error("AbortError: aborted"));
        machine.plan(
          machine.wire(),
          null,
          () => machine.waiting.includes(entry) && machine.forget((one) => one == entry),
          `asks ${this.n}`,
        );
      });
      machine.plan(machine.wire(), null, () => machine.request(entry), `asks ${this.n}`);
    });
  }

  fire(type) {
    this.machine.plan(0, this, () => this.windowed.get(type)?.forEach((fn) => fn({ type })));
  }

  hang(ms) {
    this.busyUntil = Math.max(this.busyUntil, this.machine.now + ms);
  }

  freeze(ms) {
    this.machine.plan(0, this, () => {
      [...this.frozen].forEach((listener) => listener());
      this.hang(ms);
    });
  }

  show(isShown) {
    this.document.hidden = !isShown;
    this.fire("visibilitychange");
  }

  /** Navigates away, or crashes: only the first has time for a last word. */
  leave() {
    this.fire("pagehide");
    this.machine.plan(0, this, () => this.crash());
  }

  crash() {
    this.isGone = true;
    for (const socket of this.sockets) socket.readyState = 3;
    this.machine.plan(this.machine.wire(), null, () => this.machine.forget(({ tab }) => tab == this));
  }
}

/** A WebSocket and the gateway behind it. */
class Line {
  readyState = 0;

  constructor(tab) {
    this.tab = tab;
    this.machine = tab.machine;
    this.id = this.machine.opened++;
    tab.sockets = [...tab.sockets.filter(({ readyState }) => readyState < 2), this];
    this.arrive(() => {
      if (!this.machine.isCalm && this.machine.draw() < 0.1) return this.end(1006);
      this.readyState = 1;
      this.onopen?.({ type: "open" });
    });
  }

  /** Something comes in, unless the page has closed it. */
  arrive(fn) {
    this.machine.plan(10 + this.machine.wire(), this.tab, () => this.readyState < 2 && fn(), `line ${this.id}`);
  }

  say(frame) {
    this.arrive(() => this.onmessage?.({ data: JSON.stringify(frame) }));
  }

  end(code) {
    this.readyState = 3;
    this.onclose?.({ type: "close", code });
  }

  beat() {
    if (this.readyState > 1 || this.tab.isGone) return;
    this.say({ type: "heartbeat", at: this.machine.now * 1000, fresh: true, verified_at: this.machine.now * 1000 });
    this.machine.plan(HEARTBEAT_MS, null, () => this.beat());
  }

  news(base) {
    const { version } = this.machine;
    const at = { topic: TOPIC, version, at: this.machine.now * 1000, verified_at: this.machine.now * 1000 };
    if (base) this.say({ type: "patch", ...at, base, patch: { n: version } });
    else this.say({ type: "snapshot", ...at, state: { n: version } });
  }

  send(text) {
    if (!this.readyState) throw new Error("InvalidStateError: still connecting");
    const frame = JSON.parse(text);
    this.machine.plan(10 + this.machine.wire(), null, () => this.hear(frame), `up ${this.id}`);
  }

  hear({ type, topics, version }) {
    if (this.readyState != 1) return;
    if (type == "hello") {
      this.greetings = (this.greetings ?? 0) + 1;
      this.say({ ...WELCOME, heartbeat_ms: HEARTBEAT_MS });
      this.machine.plan(HEARTBEAT_MS, null, () => this.beat());
      version = topics[TOPIC];
    } else if (type == "unsubscribe") this.wants = false;
    if (type != "hello" && type != "subscribe") return;
    this.wants = true;
    if (version == this.machine.version)
      this.say({
        type: "current",
        topic: TOPIC,
        version,
        at: this.machine.now * 1000,
        verified_at: this.machine.now * 1000,
      });
    else this.news();
  }

  close() {
    this.readyState = 3;
  }
}

/** Plays one case. @param {number} seed @param {(machine: Machine) => Promise<void>} play @param {object} [how] */
const on = async (seed, play, how) => {
  const before = GLOBALS.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  const { random } = Math;
  const { now } = Date;
  const machine = new Machine(seed, how);
  for (const name of GLOBALS)
    Object.defineProperty(globalThis, name, { get: () => current?.[name], configurable: true });
  Math.random = machine.draw;
  Date.now = () => machine.now;
  try {
    await play(machine);
  } catch (error) {
    error.message = `seed ${seed}: ${error.message}`;
    throw error;
  } finally {
    Math.random = random;
    Date.now = now;
    for (const [name, descriptor] of before)
      descriptor ? Object.defineProperty(globalThis, name, descriptor) : delete globalThis[name];
  }
};

/** One tab has the lock and the only socket, which was greeted once; all show the newest version. @param {Machine} machine */
const holds = (machine) => {
  const sockets = machine.alive.flatMap((tab) => tab.sockets.filter(({ readyState }) => readyState < 2));
  assert.deepEqual(
    sockets.map(({ readyState, greetings, tab }) => ({ readyState, greetings, isHolder: tab == machine.held?.tab })),
    machine.alive.length ? [{ readyState: 1, greetings: 1, isHolder: true }] : [],
  );
  for (const { topic } of machine.alive) {
    const { version, status, state } = topic.getSnapshot();
    assert.deepEqual(
      { version, status, state },
      { version: machine.version, status: "fresh", state: { n: machine.version } },
    );
  }
};

/** What may happen to a machine. */
const EVENTS = [
  (machine) => machine.alive.length < TABS && new Tab(machine),
  (machine, tab) => tab?.leave(),
  (machine, tab) => tab?.crash(),
  (machine, tab) => tab?.hang(machine.draw() ** 2 * 20_000),
  (machine, tab) => tab?.hang(machine.draw() * 1000),
  (machine) => machine.held?.tab.hang(200 + machine.draw() * 400),
  (machine) => machine.held?.tab.hang(machine.draw() * 8000),
  (machine, tab) => tab?.freeze(machine.draw() * 5000),
  (machine) => machine.held?.tab.freeze(machine.draw() * 1000),
  (machine, tab) => tab?.show(machine.draw() < 0.5),
  (machine) => machine.publish(),
  (machine, tab) => tab && machine.plan(0, tab, () => tab.topic?.expect()),
  (machine) => machine.alive.flatMap(({ sockets }) => sockets).forEach((line) => line.arrive(() => line.end(1006))),
];

const chaos = async (machine) => {
  for (let n = 1 + machine.upTo(TABS); n; n--) new Tab(machine);
  for (let n = 4 + machine.upTo(20); n; n--) {
    await machine.run(machine.draw() ** 3 * 3000);
    machine.of(EVENTS)(machine, machine.of(machine.alive));
  }
  machine.isCalm = true;
  machine.publish();
};

describe("tabs in any interleaving", () => {
  const cases = (name, how, play, rounds = ROUNDS) =>
    it(name, async () => {
      for (let seed = FIRST; seed < FIRST + rounds; seed++) await on(seed, play, how(seed));
    });
  const settles = async (machine) => {
    await chaos(machine);
    await machine.run(60_000);
    holds(machine);
    const { opened } = machine;
    machine.publish();
    await machine.run(30_000);
    holds(machine);
    assert.equal(machine.opened, opened, "nobody connects any more");
  };

  cases("settle with one socket", () => ({}), settles);
  cases("settle with one socket, whoever hears of a steal first", () => ({ isOrderly: false, wireMs: 50 }), settles);
  cases(
    "settle with one socket on a machine that was slow",
    (seed) => ({ taskMs: (seed % 7) * 30, wireMs: (seed % 5) * 150 }),
    async (machine) => {
      await chaos(machine);
      machine.taskMs = 1;
      machine.wireMs = 5;
      await machine.run(60_000);
      holds(machine);
      // What was learnt of a slow machine is forgotten: a leader that hangs now is replaced as soon as ever.
      for (const tab of machine.alive) tab.show(true);
      await machine.run(5000);
      const leader = machine.held?.tab;
      leader?.hang(8000);
      await machine.run(1500);
      if (machine.alive.length > 1) assert.notEqual(machine.held.tab, leader, "replaced");
    },
  );

  cases(
    "do not rob each other again and again on a machine that stays slow",
    (seed) => ({ taskMs: (seed % 2) * 60, wireMs: 300 + (seed % 4) * 100 }),
    async (machine) => {
      machine.isCalm = true;
      for (let n = 0; n < 8; n++) {
        new Tab(machine);
        await machine.run(200);
      }
      for (let n = 0; n < 20; n++) {
        await machine.run(1000);
        machine.publish();
      }
      const { opened } = machine;
      await machine.run(20_000);
      assert.ok(
        opened <= 20 && machine.opened - opened <= 3,
        `${opened} sockets in 20 s, ${machine.opened - opened} in 20 s more`,
      );
    },
    Math.ceil(ROUNDS / 6),
  ); // long ones
});
