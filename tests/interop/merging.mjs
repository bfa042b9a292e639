/**
 * What the browser client makes of a patch, case by case: a line of JSON in, a line of JSON out.
 *
 * In: `old`, `patch` and `new`, each JSON text as it stands in a frame (`new` may be null: there is nothing to compare).
 * Out, for the module and for the classic script: `patched` and `whole`, the JSON of the state after the patch and after
 * a snapshot of `new`; and `faults`, what is not as plain JSON is in memory.
 *
 * node merging.mjs FOLDER_OF_THE_CLIENT
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import vm from "node:vm";

const [folder] = process.argv.slice(2);
Object.defineProperty(globalThis, "navigator", { value: { onLine: true } });
globalThis.addEventListener = () => {};

const module = await import(pathToFileURL(`${folder}/planwire.js`).href);
vm.runInThisContext(readFileSync(`${folder}/planwire.classic.js`, "utf8"));
const born = Object.getOwnPropertyNames(Object.prototype).join();

const connected = async ({ planwire }) => {
  const socket = { send() {}, close() {} };
  const client = planwire({ url: "https://a.example", token: "t", socket: () => socket });
  client.topic("tenant:stays").subscribe(() => {});
  await new Promise(setImmediate);
  socket.onopen({});
  const receive = (data) => socket.onmessage({ data });
  const welcome = { type: "welcome", session: "s", heartbeat_ms: 1e6, fresh: true, reconnect: {}, ack: { share: 0 } };
  receive(JSON.stringify(welcome));
  return { client, receive };
};

/** What is not as it must be: in `value`, a state, and below. */
const faultsOf = (value, path = "") => {
  if (Object.is(value, -0)) return [`${path} is a negative zero`];
  if (typeof value != "object" || value === null) return [];
  const proto = Array.isArray(value) ? Array.prototype : Object.prototype;
  const faults = Object.getPrototypeOf(value) === proto ? [] : [`${path} has a foreign prototype`];
  if (!Object.isFrozen(value)) faults.push(`${path} is not frozen`);
  const keys = Reflect.ownKeys(value).filter((key) => !(Array.isArray(value) && key === "length"));
  for (const key of keys) {
    const { value: inner, enumerable } = Object.getOwnPropertyDescriptor(value, key);
    if (!enumerable) faults.push(`${path}/${key} is hidden`);
    faults.push(...faultsOf(inner, `${path}/${key}`));
  }
  return faults;
};

let count = 0;
const run = ({ client, receive }, given) => {
  const name = `tenant:${count++}`;
  const shown = (...frames) => {
    const topic = client.topic(name);
    topic.subscribe(() => {});
    frames.forEach(receive);
    const { state, version, status } = topic.getSnapshot();
    topic.close();
    return { state, version, status };
  };
  const snapshot = (version, state) => `{"type":"snapshot","topic":"${name}","version":${version},"state":${state}}`;
  const patch = `{"type":"patch","topic":"${name}","base":1,"version":2,"patch":${given.patch}}`;
  const patched = shown(snapshot(1, given.old), patch);
  const whole = shown(snapshot(2, given.new ?? "null"));
  const faults = [...faultsOf(patched.state), ...faultsOf(whole.state)];
  if (`${patched.version} ${patched.status}` != "2 fresh") faults.push("the patch was not taken");
  if (Object.getOwnPropertyNames(Object.prototype).join() != born) faults.push("Object.prototype was changed");
  return { patched: JSON.stringify(patched.state), whole: JSON.stringify(whole.state), faults };
};

const clients = [await connected(module), await connected(globalThis.Planwire)];
for await (const line of createInterface({ input: process.stdin })) {
  const given = JSON.parse(line);
  process.stdout.write(JSON.stringify(clients.map((client) => run(client, given))) + "\n");
}
process.exit();
