import assert from "node:assert/strict";
import { afterEach, beforeEach, it } from "node:test";
import { app } from "../app.js";
import { define } from "../elements.js";
import { open, snapshot } from "./fakes.js";

/** @type {any} */
let world;
/** @type {Record<string, any>} the elements that were defined */
const made = {};
beforeEach(() => {
  world = open();
  Object.assign(globalThis, {
    HTMLElement: class {
      /** @type {Record<string, string>} */
      attributes = {};
      textContent = "…";
      getAttribute = (/** @type {string} */ key) => this.attributes[key] ?? null;
      setAttribute = (/** @type {string} */ key, /** @type {string} */ value) => (this.attributes[key] = value);
    },
    customElements: { define: (/** @type {string} */ name, /** @type {any} */ element) => (made[name] = element) },
  });
});
afterEach(() => world.close());

/** @param {string} name @param {Record<string, string>} attributes */
const connected = (name, attributes) => {
  const element = Object.assign(new made[name](), { attributes });
  element.connectedCallback();
  return element;
};

it("shows a value while there is one, and never one that is gone", async () => {
  define(world.topic);
  const plan = connected("pw-value", { path: "plan.name", none: "Free" });
  const seats = connected("pw-value", { path: "limits.seats" });
  const shown = () => [plan.textContent, seats.textContent];
  assert.deepEqual(shown(), ["…", "…"]);
  await world.connect({ frames: [snapshot(1, null)] });
  assert.deepEqual(shown(), ["Free", "…"]);
  world.socket.receive(snapshot(2, { plan: { name: "Pro" }, limits: { seats: 0 } }));
  assert.deepEqual(shown(), ["Pro", 0]);
  world.socket.receive(snapshot(3, { limits: {} }));
  assert.deepEqual(shown(), ["Free", "…"]);
  world.socket.receive(snapshot(4, { plan: { name: "Pro" } }));
  world.socket.drop();
  assert.deepEqual(shown(), ["Pro", "…"]);
});

it("shows of an application what the state says of it", async () => {
  define(app(world.topic, "mail"), "mail");
  const [plan, status, calls] = [
    connected("mail-value", { path: "plan.name", none: "nothing" }),
    connected("mail-value", { path: "status" }),
    connected("mail-if", { feature: "calls" }),
  ];
  const shown = () => [plan.textContent, status.textContent, calls.hidden];
  assert.deepEqual(shown(), ["…", "…", true]);
  const mail = { plan: { name: "Mail" }, status: "active", features: { calls: true } };
  await world.connect({ frames: [snapshot(1, { status: "none", apps: { mail } })] });
  assert.deepEqual(shown(), ["Mail", "active", false]);
  world.socket.receive(snapshot(2, { status: "none", apps: { mail: { status: "canceled", features: {} } } }));
  assert.deepEqual(shown(), ["nothing", "canceled", true]);
  world.socket.receive(snapshot(3, { status: "none", apps: {} }));
  assert.deepEqual(shown(), ["…", "…", true]);
});
