import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { it } from "node:test";
import { limit, responseOf } from "../express.js";
import { UsageDenied, UsageProblem, UsageUnknown, server } from "../server.js";

const COUNTED = {
  allowed: true, used: 3, reserved: 0, limit: 10, remaining: 7, version: 5, usage_version: 9,
  resets_at: "2026-12-01T00:00:00.000000Z",
};
const json = (status, document, headers = {}) =>
  new Response(JSON.stringify(document), { status, headers: { "Content-Type": "application/json", ...headers } });
const problem = (status, code, headers) => json(status, { code, detail: `about ${code}` }, headers);

/** A gateway that gives these answers in turn, the last one for ever. `seen`: the requests. */
const gateway = (answers, options = {}) => {
  const seen = [];
  const fetch = async (url, { method, headers, body, signal }) => {
    seen.push({ url, method, headers, body: body && JSON.parse(body) });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    const found = typeof answer == "function" ? await answer(signal) : answer.clone();
    if (found instanceof Error) throw found;
    return found;
  };
  return { seen, planwire: server({ url: "https://live.example.com/", key: "secret", timeoutMs: 400, fetch, ...options }) };
};
const away = () => new TypeError("fetch failed", { cause: new Error("ECONNREFUSED") });

it("asks for units, with a key of its own, and says what is left", async () => {
  const { planwire, seen } = gateway([json(200, COUNTED)]);
  const { resets_at, usage_version, ...rest } = COUNTED;
  assert.deepEqual(await planwire.consume("tenant:acme", "api_calls", 3), {
    ...rest, known: true, resetsAt: resets_at, usageVersion: 9,
  });
  const [{ url, method, headers, body }] = seen;
  assert.equal(`${method} ${url}`, "POST https://live.example.com/v1/tenants/acme/usage/api_calls/consume?env=live");
  assert.equal(headers.get("Authorization"), "Bearer secret");
  assert.equal(body.amount, 3);
  assert.match(body.key, /^[0-9a-f-]{36}$/);
});

it("names tenants with any id, in any environment", async () => {
  const { planwire, seen } = gateway([json(200, COUNTED)]);
  await planwire.consume("sandbox/tenant:auth0%7C5f%20Zo%C3%AB", "seats");
  await assert.rejects(planwire.read("tenant:a%2Fb"), UsageProblem);
  assert.deepEqual(seen.map(({ method, url }) => [method, url.slice(24)]), [
    ["POST", "/v1/tenants/auth0%7C5f%20Zo%C3%AB/usage/seats/consume?env=sandbox"],
    ["GET", "/v1/tenants/a%2Fb/usage?env=live"],
  ]);
  for (const wrong of ["acme", "user:acme", "tenant:", "tenant:a/b", undefined, "tenant:%7c", "tenant:undefined", "live/tenant:acme"])
    await assert.rejects(planwire.consume(wrong, "seats"), TypeError);
  for (const wrong of [0, -1, 1.5, NaN, "3", 1e13]) await assert.rejects(planwire.consume("tenant:acme", "seats", wrong), RangeError);
  assert.equal(seen.length, 2);
});

it("repeats a call without an answer, with the same key", async () => {
  const html = new Response("<h1>Bad gateway</h1>", { status: 502 });
  const { planwire, seen } = gateway([away, html, problem(503, "store_unavailable"), problem(429, "rate_limited"), json(200, COUNTED)], { timeoutMs: 30_000 });
  assert.equal((await planwire.consume("tenant:acme", "api_calls")).allowed, true);
  assert.equal(seen.length, 5);
  assert.equal(new Set(seen.map(({ body }) => body.key)).size, 1);
});

it("throws what cannot be counted, at once", async () => {
  for (const [status, code] of [[404, "meter_unknown"], [403, "scope_missing"], [409, "limit_unknown"], [429, "reservations_full"]]) {
    const { planwire, seen } = gateway([problem(status, code)], { whenUnknown: "allow" });
    await assert.rejects(planwire.consume("tenant:acme", "api_calls"), (error) => {
      assert(error instanceof UsageProblem);
      assert.deepEqual([error.status, error.code, error.message], [status, code, `about ${code}`]);
      return true;
    });
    assert.equal(seen.length, 1);
  }
});

it("never takes no answer for a denial", async () => {
  const hangs = (signal) =>
    new Promise((_, reject) => {
      const alive = setInterval(() => {}, 1000); // as a socket does
      signal.addEventListener("abort", () => (clearInterval(alive), reject(signal.reason)));
    });
  for (const answer of [away, hangs, problem(503, "store_unavailable"), problem(429, "rate_limited", { "Retry-After": "60" }),
    new Response("<h1>Bad gateway</h1>", { status: 502 })]) {
    const timeouts = { timeoutMs: 80, attemptMs: 40 };
    await assert.rejects(gateway([answer], timeouts).planwire.consume("tenant:acme", "m"), UsageUnknown);
    for (const whenUnknown of /** @type {const} */ (["allow", "deny"])) {
      const { planwire } = gateway([answer], { ...timeouts, whenUnknown });
      const { error, ...rest } = await planwire.consume("tenant:acme", "m");
      assert.deepEqual(rest, { allowed: whenUnknown == "allow", known: false });
      assert(error instanceof UsageUnknown);
      await assert.rejects(planwire.release("tenant:acme", "m"), UsageUnknown);
    }
  }
});

it("finalizes reserved work with what it used, also if it fails", async () => {
  const amounts = async (work, answers = [json(200, COUNTED)]) => {
    const { planwire, seen } = gateway(answers);
    const result = await planwire.reserving("tenant:acme", "tokens", 100, work).catch((error) => error.message);
    assert.equal(new Set(seen.map(({ body }) => body.id)).size, 1);
    return [result, ...seen.map(({ url, body }) => `${/(\w+)\?/.exec(url)[1]} ${body.amount}`)];
  };
  assert.deepEqual(await amounts(() => "done"), ["done", "reserve 100", "finalize 100"]);
  assert.deepEqual(await amounts((use) => (use(30), use(12), "done")), ["done", "reserve 100", "finalize 42"]);
  const fail = () => assert.fail("broken");
  assert.deepEqual(await amounts(fail), ["broken", "reserve 100", "finalize 0"]);
  assert.deepEqual(await amounts((use) => (use(30), fail())), ["broken", "reserve 100", "finalize 30"]);
  const denied = json(200, { ...COUNTED, allowed: false });
  assert.deepEqual(await amounts(fail, [denied]), ["tokens: the limit is reached", "reserve 100"]);
});

it("does no work that was denied, and loses no result of work that was done", async () => {
  const denied = gateway([json(200, { ...COUNTED, allowed: false })]).planwire;
  await assert.rejects(denied.reserving("tenant:acme", "tokens", 1, assert.fail), UsageDenied);
  const { planwire } = gateway([json(200, COUNTED), away], { timeoutMs: 60 });
  const lost = planwire.reserving("tenant:acme", "tokens", 1, () => "text");
  await assert.rejects(lost, (error) => error instanceof UsageUnknown && error.result == "text");
});

it("sends batches of each environment, and gives the results in order", async () => {
  const seen = [];
  const fetch = async (url, { body }) => {
    const { calls } = JSON.parse(body);
    seen.push([url.slice(24), calls.length]);
    return json(200, { results: calls.map(({ amount }) => (amount == 7 ? { code: "meter_unknown", detail: "no" } : { ...COUNTED, used: amount })) });
  };
  const planwire = server({ url: "https://live.example.com", key: "secret", fetch });
  const calls = Array.from({ length: 502 }, (_, at) => ({ tenant: "tenant:acme", meter: "m", amount: at + 1 }));
  const found = await planwire.batch([{ tenant: "sandbox/tenant:b", meter: "m", amount: 600 }, ...calls]);
  assert.deepEqual(seen, [["/v1/usage/batch?env=sandbox", 1], ["/v1/usage/batch?env=live", 500], ["/v1/usage/batch?env=live", 2]]);
  assert.deepEqual(found.map(({ used }) => used), [600, ...calls.map(({ amount }) => (amount == 7 ? undefined : amount))]);
  const { key, ...unknown } = found[7];
  assert.deepEqual(unknown, { known: false, code: "meter_unknown", detail: "no" });
  assert.match(key, /^[0-9a-f-]{36}$/);
  assert.deepEqual(await planwire.batch([]), []);
  const [held] = await planwire.batch([{ tenant: "tenant:acme", meter: "m", operation: "reserve", amount: 5, seconds: 9 }]);
  assert.match(held.id, /^[0-9a-f-]{36}$/);
  assert.equal(held.key, undefined);
});

it("is not made without a key, nor with a policy that there is not", () => {
  assert.throws(() => server({ url: "https://live.example.com", key: "" }), TypeError);
  assert.throws(() => server(/** @type {any} */ ({ url: "https://live.example.com", key: "k", whenUnknown: "ignore" })), TypeError);
  assert.throws(() => server({ url: "live.example.com", key: "k" }), TypeError);
  assert.throws(() => server({ url: "https://live.example.com", key: "\u2192" }), TypeError);
});

const NOW = Date.parse("2026-11-30T23:59:00Z");
const DENIED = { allowed: false, known: true, used: 10, limit: 10, remaining: 0, resetsAt: COUNTED.resets_at };

it("says in an answer of 429 when the count begins anew", () => {
  const { status, headers, body } = responseOf("api_calls", DENIED, 1, NOW);
  assert.equal(status, 429);
  assert.deepEqual(headers, {
    "RateLimit-Limit": "10", "RateLimit-Remaining": "0", "RateLimit-Reset": "60",
    "Content-Type": "application/problem+json", "Retry-After": "60",
  });
  assert.deepEqual(body, {
    type: "about:blank", title: "Too Many Requests", status: 429, code: "usage_limit_reached",
    detail: `1 api_calls do not fit: 10 of 10 are used, and the count begins anew at 2026-12-01T00:00:00Z`,
    meter: "api_calls", amount: 1, used: 10, limit: 10, remaining: 0, resets_at: "2026-12-01T00:00:00Z",
  });
  // Waiting does not help.
  assert.equal(responseOf("api_calls", DENIED, 11, NOW).headers["Retry-After"], undefined);
  assert.equal(responseOf("seats", { ...DENIED, resetsAt: undefined }, 1, NOW).headers["Retry-After"], undefined);
  assert.deepEqual(responseOf("m", { allowed: true, known: true, limit: "unlimited", remaining: "unlimited" }).headers, {});
});

/** What a middleware does with a request. */
const handled = async (middleware, request = {}) => {
  const found = { headers: {}, next: undefined, statusCode: 200, body: undefined };
  const response = {
    setHeader: (name, value) => (found.headers[name] = value),
    end: (body) => (found.body = JSON.parse(body)),
    set statusCode(status) {
      found.statusCode = status;
    },
  };
  await middleware(request, response, (error) => (found.next = error ?? "next"));
  return found;
};

it("lets requests pass that fit, and answers the others", async () => {
  const tenant = (request) => request.tenant;
  const with_ = (answer, options = {}) => limit(gateway([answer], { timeoutMs: 60 }).planwire, "api_calls", { tenant, ...options });
  const acme = { tenant: "tenant:acme" };
  const passed = await handled(with_(json(200, COUNTED)), acme);
  assert.deepEqual([passed.next, passed.headers["RateLimit-Remaining"], acme.usage.remaining], ["next", "7", 7]);
  const denied = await handled(with_(json(200, { ...COUNTED, allowed: false })), acme);
  assert.deepEqual([denied.next, denied.statusCode, denied.body.code], [undefined, 429, "usage_limit_reached"]);
  const unknown = await handled(with_(away), acme);
  assert.deepEqual([unknown.next, unknown.statusCode, unknown.body.code, unknown.headers["Retry-After"]], [undefined, 503, "usage_unknown", "1"]);
  assert.equal((await handled(with_(problem(404, "meter_unknown")), acme)).next.code, "meter_unknown");
  assert.equal((await handled(with_(away), { tenant: null })).next, "next");
  assert.equal((await handled(with_(away, { amount: () => 0 }), acme)).next, "next");
  assert((await handled(with_(away), { tenant: "acme" })).next instanceof TypeError);
});

/** The rows that the Python client runs, too; none where this folder stands alone. @param {string} name @returns {any[]} */
const vectors = (name) => {
  const file = new URL(`../../../tests/vectors/${name}.json`, import.meta.url);
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : [];
};

for (const { name, call, path, body } of vectors("usage_requests"))
  it(`makes this request: ${name}`, async () => {
    const { planwire, seen } = gateway([json(200, COUNTED)]);
    const { operation, tenant, meter, amount, ...options } = call;
    const made = async () => {
      if (operation != "finalize") return planwire[operation](tenant, meter, amount, options);
      const { finalize } = await planwire.reserve(tenant, meter, 1, options);
      return finalize(amount);
    };
    if (path === null) return assert.rejects(made(), (error) => error instanceof TypeError || error instanceof RangeError);
    await made();
    assert.deepEqual([seen.at(-1).url, seen.at(-1).body], ["https://live.example.com" + path, body]);
  });

for (const { name, status, headers, body, outcome } of vectors("usage_answers"))
  it(`makes of an answer what Python makes: ${name}`, async () => {
    const text = typeof body == "string" ? body : JSON.stringify(body);
    const type = typeof body == "string" ? "text/html" : "application/json";
    const answer = new Response(text, { status, headers: { "Content-Type": type, ...headers } });
    const { planwire } = gateway([answer], { timeoutMs: 30 });
    const call = planwire.consume("tenant:acme", "api_calls", 3);
    if (outcome.retry) return assert.rejects(call, UsageUnknown);
    if (outcome.refused) return assert.rejects(call, (error) => error.code == outcome.refused);
    const { known, usageVersion, resetsAt, over = 0, repeated = false, ...rest } = await call;
    const { resets_at, usage_version, ...expected } = outcome.counted;
    for (const key of Object.keys(expected)) assert.deepEqual({ over, repeated, ...rest }[key], expected[key], key);
    assert.deepEqual([known, usageVersion], [true, usage_version]);
    assert.equal(resetsAt ? Date.parse(resetsAt) : null, resets_at && Date.parse(resets_at));
  });

for (const { name, now_s, meter, amount, counted, ...expected } of vectors("usage_denials"))
  it(`answers as Python does: ${name}`, () => {
    const { is_known, resets_at, ...rest } = counted;
    const answer = { ...rest, known: is_known, resetsAt: resets_at ?? undefined };
    const { status, headers, body } = responseOf(meter, answer, amount, now_s * 1000);
    const { detail, ...problem } = body;
    assert(detail);
    assert.deepEqual({ status, headers, problem }, expected);
  });
