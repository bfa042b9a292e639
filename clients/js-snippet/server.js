/**
 * For back ends (Node 20 and later, Deno, Bun, workers), never for a page: it needs a secret. Counts what tenants use.
 *
 *     const planwire = server({ url: "https://live.example.com", key: process.env.PLANWIRE_PUBLISH_KEY });
 *     const { allowed, remaining, resetsAt } = await planwire.consume("tenant:acme", "api_calls", 3);
 *
 * A call that gets no answer is sent again with the same key, so it counts once.
 */

import { topic } from "./planwire.js";

/**
 * What came of a call. A number that is not known is absent, never 0.
 * @typedef {object} Answer
 * @property {boolean} allowed  whether it was counted; a denial changes nothing
 * @property {boolean} known    false: Planwire gave no answer, and `allowed` is what `whenUnknown` says
 * @property {number} [used]
 * @property {number} [reserved]
 * @property {number | "unlimited"} [limit]
 * @property {number | "unlimited"} [remaining]
 * @property {string} [resetsAt]      RFC 3339; absent if the count never begins anew
 * @property {number} [version]       of the entitlements that it was counted against; 0: the default plan's
 * @property {number} [usageVersion]  of the topic usage:ID
 * @property {number} [over]          units beyond the limit
 * @property {boolean} [repeated]     it was counted earlier, under the same key
 * @property {Error} [error]          why there is no answer
 */

/**
 * Units that are held for work of unknown size, until `finalize` says how many it used, or `cancel` gives them back.
 * @typedef {Answer & {id: string, finalize: (used: number) => Promise<Answer>, cancel: () => Promise<Answer>}} Reservation
 */

/**
 * @typedef {object} Options
 * @property {string} url  the gateway, e.g. `https://live.example.com`
 * @property {string} key  a publish key with the scope `usage`
 * @property {number} [timeoutMs]  for a call with its repetitions; default 3000
 * @property {number} [attemptMs]  for one attempt; default 1000
 * @property {"throw" | "allow" | "deny"} [whenUnknown]  what `consume`, `set` and `reserve` do if Planwire gives no answer
 *   in time: throw a UsageUnknown (default), or answer `{allowed, known: false}`. The other calls throw.
 * @property {typeof globalThis.fetch} [fetch]
 */

/** @typedef {{tenant: string, meter: string, operation?: "consume" | "release" | "set" | "reserve" | "finalize",
 *   amount?: number, key?: string, id?: string, seconds?: number}} BatchCall  `id`: of the reservation */
/** @typedef {Partial<Answer> & {key?: string, id?: string, code?: string, detail?: string}} BatchAnswer  `code`: why a call
 *   could not be counted; then `allowed` is absent, and `known` false. `key` or `id`: to repeat it with */

/** Planwire gave no answer in time. Whether the call was counted is not known; repeat it with the same `key`. */
export class UsageUnknown extends Error {
  name = "UsageUnknown";
}

/** Planwire answered that the call cannot be counted. `code` is stable (docs/usage.md). */
export class UsageProblem extends Error {
  name = "UsageProblem";
  /** @param {number} status @param {{code?: string, detail?: string, title?: string}} problem */
  constructor(status, { code, detail, title }) {
    super(detail ?? title ?? `HTTP ${status}`);
    this.status = status;
    this.code = code ?? "";
  }
}

/** The units do not fit, so the work was not begun. `answer` says what is left. */
export class UsageDenied extends Error {
  name = "UsageDenied";
  /** @param {string} meter @param {Answer} answer */
  constructor(meter, answer) {
    super(`${meter}: the limit is reached`);
    this.meter = meter;
    this.answer = answer;
  }
}

const BATCH_MAX = 500;
const [RETRY_MS, RETRY_MAX_MS] = [50, 1000];

/** The environment and the id of a tenant's topic. @param {string} tenant @returns {[string, string]} */
const partsOf = (tenant) => {
  try {
    const [, env = "live", encoded] = /** @type {any} */ (/^(?:([^/]+)\/)?tenant:(.+)$/.exec(tenant));
    const id = decodeURIComponent(encoded);
    if (topic("tenant", id, env) == tenant) return [env, id];
  } catch {}
  throw new TypeError(`${JSON.stringify(tenant)} is no tenant's topic: use topic("tenant", id) of planwire.js`);
};

/** A meter's key, as a part of a path. @param {string} meter */
const checkMeter = (meter) => {
  if (!/^[a-z][a-z0-9_-]{0,63}$/.test(meter)) throw new TypeError(`${JSON.stringify(meter)} is not the key of a meter`);
  return meter;
};

/** A number of units that can be counted. @param {number} amount @param {number} least */
const checkAmount = (amount, least) => {
  if (Number.isSafeInteger(amount) && amount >= least && amount <= 1e12) return amount;
  throw new RangeError(`amount must be a whole number from ${least} to 1e12, not ${amount}`);
};

const NOT_A_GATEWAY = { code: "not_a_gateway", detail: "the answer is not a gateway's; look at the URL" };

/** The object that a text says, or nothing. @param {string} text */
const parsed = (text) => {
  try {
    return Object(JSON.parse(text));
  } catch {
    return undefined;
  }
};

/** @param {any} document @returns {any} */
const answerOf = ({ resets_at, usage_version, ...rest }) => {
  if (typeof rest.allowed != "boolean" || !Number.isSafeInteger(rest.used)) throw new UsageProblem(200, NOT_A_GATEWAY);
  return { known: true, ...rest, usageVersion: usage_version, ...(resets_at && { resetsAt: resets_at }) };
};

/** A client of the usage routes. It need not be closed. @param {Options} options */
export const server = ({ url, key: secret, timeoutMs = 3000, attemptMs = 1000, whenUnknown = "throw", fetch }) => {
  if (!secret) throw new TypeError("key is missing: a publish key with the scope usage");
  if (!/^(throw|allow|deny)$/.test(whenUnknown)) throw new TypeError(`whenUnknown is ${whenUnknown}`);
  const base = new URL(url).href.replace(/\/+$/, "");
  const headers = new Headers({ Authorization: `Bearer ${secret}`, "Content-Type": "application/json" });

  /** One attempt. Throws a UsageProblem if repeating does not help. @param {string} path @param {number} ms @param {string} [body] */
  const attempt = async (path, ms, body) => {
    const response = await (fetch ?? globalThis.fetch)(base + path, {
      method: body == null ? "GET" : "POST",
      headers,
      body,
      redirect: "manual",
      signal: AbortSignal.timeout(ms),
    });
    const { status } = response;
    const found = parsed(await response.text());
    if (status == 200 && found) return { document: found };
    const isLater = status >= 500 || status == 408 || (status == 429 && found?.code != "reservations_full");
    const problem = new UsageProblem(status, found?.code ? found : isLater ? {} : NOT_A_GATEWAY);
    if (!isLater) throw problem;
    return { problem, afterMs: 1000 * Number(response.headers.get("retry-after")) || 0 };
  };

  /** The answer of the first attempt that has one. @param {string} path @param {object} [body] */
  const call = async (path, body) => {
    const text = body && JSON.stringify(body);
    const until = Date.now() + timeoutMs;
    for (let count = 0; ; count++) {
      let cause, wait = 0;
      try {
        const { document, problem, afterMs = 0 } = await attempt(path, Math.min(attemptMs, until - Date.now()), text);
        if (!problem) return document;
        [cause, wait] = [problem, afterMs];
      } catch (error) {
        if (error instanceof UsageProblem) throw error;
        cause = error;
      }
      wait = Math.max(wait, Math.random() * Math.min(RETRY_MAX_MS, RETRY_MS * 2 ** count));
      if (Date.now() + wait >= until) {
        const why = /** @type {any} */ (cause).cause ?? cause;
        throw new UsageUnknown(`Planwire gave no answer within ${timeoutMs} ms: ${why.message || why.code || why}`, { cause });
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  };

  /** @param {string} tenant @param {string} rest */
  const path = (tenant, rest) => {
    const [env, id] = partsOf(tenant);
    return `/v1/tenants/${encodeURIComponent(id)}/usage${rest}?env=${env}`;
  };

  /** @param {string} tenant @param {string} meter @param {string} operation @param {object} body @returns {Promise<Answer>} */
  const count = async (tenant, meter, operation, body) =>
    answerOf(await call(path(tenant, `/${checkMeter(meter)}/${operation}`), body));

  /** The answer, or what `whenUnknown` says. @param {Promise<Answer>} answer @returns {Promise<Answer>} */
  const orUnknown = async (answer) => {
    try {
      return await answer;
    } catch (error) {
      if (whenUnknown == "throw" || !(error instanceof UsageUnknown)) throw error;
      return { allowed: whenUnknown == "allow", known: false, error };
    }
  };

  const planwire = {
    /**
     * Takes units, if they fit.
     * @param {string} tenant  the tenant's topic: `tenant:acme`, or `topic("tenant", id)`
     * @param {string} meter
     * @param {number} [amount]
     * @param {{key?: string}} [options]  `key`: of the work, so that doing it again does not count again
     * @returns {Promise<Answer>}
     * @throws {UsageProblem | UsageUnknown}
     */
    consume: async (tenant, meter, amount = 1, { key = crypto.randomUUID() } = {}) => {
      return orUnknown(count(tenant, meter, "consume", { amount: checkAmount(amount, 1), key }));
    },

    /** Gives units back. @param {string} tenant @param {string} meter @param {number} [amount] @param {{key?: string}} [options] */
    release: async (tenant, meter, amount = 1, { key = crypto.randomUUID() } = {}) => {
      return count(tenant, meter, "release", { amount: checkAmount(amount, 1), key });
    },

    /** Says how many are in use. @param {string} tenant @param {string} meter @param {number} amount @param {{key?: string}} [options] */
    set: async (tenant, meter, amount, { key = crypto.randomUUID() } = {}) => {
      return orUnknown(count(tenant, meter, "set", { amount: checkAmount(amount, 0), key }));
    },

    /**
     * Holds units for work of unknown size.
     * @param {string} tenant @param {string} meter @param {number} amount
     * @param {{id?: string, seconds?: number}} [options]  `seconds`: then they are given back; default 300
     * @returns {Promise<Reservation>}
     */
    reserve: async (tenant, meter, amount, { id = crypto.randomUUID(), seconds = 300 } = {}) => {
      const answer = await orUnknown(count(tenant, meter, "reserve", { amount: checkAmount(amount, 1), id, seconds }));
      const finalize = async (/** @type {number} */ used) =>
        count(tenant, meter, "finalize", { id, amount: checkAmount(used, 0) });
      return { ...answer, id, finalize, cancel: () => finalize(0) };
    },

    /**
     * Does work with reserved units. What `use` was called with counts, else all of them; if the work throws, only
     * what `use` was called with.
     * @template Result
     * @param {string} tenant @param {string} meter @param {number} amount
     * @param {(use: (units: number) => void, reservation: Reservation) => Promise<Result> | Result} work
     * @param {{id?: string, seconds?: number}} [options]
     * @returns {Promise<Result>}
     * @throws {UsageDenied} the units do not fit; the work was not begun
     * @throws {UsageUnknown} Planwire gave no answer; if the work is done, the error's `result` is what it returned
     */
    reserving: async (tenant, meter, amount, work, options) => {
      const reservation = await planwire.reserve(tenant, meter, amount, options);
      if (!reservation.allowed) throw new UsageDenied(meter, reservation);
      /** @type {number | undefined} */
      let used;
      const use = (/** @type {number} */ units) => {
        used = (used ?? 0) + checkAmount(units, 0);
      };
      let result;
      try {
        result = await work(use, reservation);
      } catch (error) {
        await reservation.finalize(used ?? 0).catch(() => {}); // else it ends by itself
        throw error;
      }
      try {
        await orUnknown(reservation.finalize(used ?? amount));
      } catch (error) {
        throw Object.assign(/** @type {object} */ (error), { result });
      }
      return result;
    },

    /**
     * Counts many calls, each for itself, of any tenants. Calls of one tenant are counted in order.
     * @param {BatchCall[]} calls
     * @returns {Promise<BatchAnswer[]>} one for each, in order
     */
    batch: async (calls) => {
      /** @type {BatchAnswer[]} */
      const found = [];
      /** @type {Map<string, [number, object, object][]>} */
      const byEnvironment = new Map();
      calls.forEach(({ tenant, key, id, ...rest }, index) => {
        const [env, tenantId] = partsOf(tenant);
        const isHold = rest.operation == "reserve" || rest.operation == "finalize";
        const name = isHold ? { id } : { key: key ?? crypto.randomUUID() };
        if (rest.operation == "reserve") name.id ??= crypto.randomUUID();
        const same = byEnvironment.get(env) ?? [];
        byEnvironment.set(env, same);
        same.push([index, { ...rest, ...name, tenant: tenantId }, name]);
      });
      for (const [env, all] of byEnvironment) {
        for (let start = 0; start < all.length; start += BATCH_MAX) {
          const some = all.slice(start, start + BATCH_MAX);
          const { results } = await call(`/v1/usage/batch?env=${env}`, { calls: some.map(([, one]) => one) });
          if (results?.length != some.length) throw new UsageProblem(200, NOT_A_GATEWAY);
          some.forEach(([index, , name], at) => {
            const { code, detail } = results[at];
            found[index] = { ...name, ...(code ? { known: false, code, detail } : answerOf(results[at])) };
          });
        }
      }
      return found;
    },

    /** What a tenant has used. @param {string} tenant @returns {Promise<import("./usage.js").Usage & {version: number}>} */
    read: async (tenant) => {
      const found = await call(path(tenant, ""));
      if (!found.meters) throw new UsageProblem(200, NOT_A_GATEWAY);
      return found;
    },
  };
  return planwire;
};
