/**
 * The shipped usage clients as a process: `node --experimental-websocket usage.mjs URL TENANT TOKEN KEY`.
 *
 * A line of JSON on standard input is a call of the server client, `["consume", "tenant:acme", "api_calls", 3]`, or
 * `["get", TENANT]`: a request to an HTTP server with the middleware. Its answer is a line `{"answer": ...}` on standard
 * output. `["show", METER]` starts the page: each value of `useUsage` is a line `{"shown": ...}`. It ends when standard
 * input does.
 */
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { limit } from "../../clients/js-snippet/express.js";
import { planwire } from "../../clients/js-snippet/planwire.js";
import { server } from "../../clients/js-snippet/server.js";
import { useUsage } from "../../clients/js-snippet/svelte.js";
import { usage } from "../../clients/js-snippet/usage.js";

Object.defineProperty(globalThis, "navigator", { value: { onLine: true }, configurable: true });
globalThis.addEventListener = () => {};

const [url, tenant, token, key] = process.argv.slice(2);
const print = (value) => console.log(JSON.stringify(value));
const backend = server({ url, key, timeoutMs: 15_000, attemptMs: 5000 });
const pages = planwire({ url: url.replace("http", "ws"), token: () => token });

const application = createServer((request, response) =>
  limit(backend, "api_calls", { tenant: ({ headers }) => headers.tenant })(request, response, (error) =>
    response.writeHead(error ? 500 : 200).end(error ? String(error) : "{}"),
  ),
);
await new Promise((resolve) => application.listen(0, "127.0.0.1", resolve));

const get = async (of) => {
  const response = await fetch(`http://127.0.0.1:${application.address().port}/`, { headers: { tenant: of } });
  return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.json() };
};

const run = async ([name, ...args]) => {
  if (name == "get") return get(...args);
  if (name != "reserving") return backend[name](...args);
  const [of, meter, amount, used] = args;
  return backend.reserving(of, meter, amount, (use) => (use(used), "done"));
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [operation, meter] = JSON.parse(line);
    if (operation == "show") return useUsage(usage(pages, tenant), meter).subscribe((shown) => print({ shown }));
    run(JSON.parse(line)).then(
      (answer) => print({ answer }),
      ({ name, code }) => print({ answer: { error: name, code } }),
    );
  })
  .on("close", () => process.exit());
