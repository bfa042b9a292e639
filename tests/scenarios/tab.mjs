/**
 * The shipped browser client as a process: `node --experimental-websocket tab.mjs URL TOPIC TOKEN`.
 *
 * Every snapshot that it shows is one line of JSON on standard output. A line of JSON on standard input is the options
 * of an `expect`, whose answer is a line `{"expected": BOOLEAN}`. It ends when standard input does.
 */
import { createInterface } from "node:readline";
import { planwire } from "../../clients/js-snippet/planwire.js";

Object.defineProperty(globalThis, "navigator", { value: { onLine: true }, configurable: true });
globalThis.addEventListener = () => {};

const [url, name, token] = process.argv.slice(2);
const print = (value) => console.log(JSON.stringify(value));
const topic = planwire({ url, token: () => token }).topic(name);

topic.subscribe((snapshot) => print({ ...snapshot, at: Date.now() }));
createInterface({ input: process.stdin })
  .on("line", (line) => topic.expect(JSON.parse(line)).then((expected) => print({ expected })))
  .on("close", () => process.exit());
