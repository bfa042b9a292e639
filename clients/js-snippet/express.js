/**
 * For back ends: limits requests by a meter. Role: `app.use("/api", limit(planwire, "api_calls", { tenant }))`, with
 * `planwire` of server.js; `responseOf` is the same for other frameworks.
 */
import { UsageUnknown } from "./server.js";

/** Seconds after which a request is to be repeated whose usage was not known. */
const UNKNOWN_RETRY_S = "1";

/**
 * The HTTP answer to a request whose usage was counted or denied: headers that say what is left; for a denial also 429 and
 * a problem document, or 503 if it is not known.
 *
 * `Retry-After` says when the count begins anew. It is absent if the count never does, or if the units do not fit then.
 * @param {string} meter
 * @param {import("./server.js").Answer} answer
 * @param {number} [amount]
 * @param {number} [now]  ms since 1970
 * @returns {{status: number, headers: Record<string, string>, body?: object}} status 200: go on
 */
export const responseOf = (meter, { allowed, known, used, limit, remaining, resetsAt }, amount = 1, now = Date.now()) => {
  /** @type {Record<string, string>} */
  const headers = {};
  const seconds = resetsAt && String(Math.max(1, Math.ceil((Date.parse(resetsAt) - now) / 1000)));
  if (typeof limit == "number") {
    headers["RateLimit-Limit"] = String(limit);
    headers["RateLimit-Remaining"] = String(remaining);
    if (seconds) headers["RateLimit-Reset"] = seconds;
  }
  if (allowed) return { status: 200, headers };

  /** @param {number} status @param {string} title @param {string} code @param {string} detail @param {object} more */
  const problem = (status, title, code, detail, more) => {
    headers["Content-Type"] = "application/problem+json";
    return { status, headers, body: { type: "about:blank", title, status, code, detail, meter, ...more } };
  };
  if (!known) {
    headers["Retry-After"] = UNKNOWN_RETRY_S;
    return problem(503, "Service Unavailable", "usage_unknown", `the usage of ${meter} is not known at the moment`, {});
  }
  if (seconds && typeof limit == "number" && amount <= limit) headers["Retry-After"] = seconds;
  const resets_at = resetsAt && new Date(resetsAt).toISOString().replace(".000Z", "Z");
  const when = resets_at ? `, and the count begins anew at ${resets_at}` : "";
  const detail = `${amount} ${meter} do not fit: ${used} of ${limit} are used${when}`;
  const more = { amount, used, limit, remaining, ...(resets_at && { resets_at }) };
  return problem(429, "Too Many Requests", "usage_limit_reached", detail, more);
};

/**
 * Middleware for Express, Connect and Node's own server: counts each request, and answers 429 if it does not fit, 503 if
 * that is not known. `req.usage` is the answer. Other errors go to `next`.
 * @template Request
 * @param {Pick<ReturnType<typeof import("./server.js").server>, "consume">} planwire
 * @param {string} meter
 * @param {object} options
 * @param {(req: Request) => string | null | Promise<string | null>} options.tenant  the topic of the request's tenant, by
 *   your own authentication; null: the request is not counted
 * @param {number | ((req: Request) => number)} [options.amount]  0: the request is not counted
 * @param {(req: Request) => string | undefined} [options.key]  one of your own for each piece of work. Never a header of
 *   the request: who repeats it would be counted once
 * @returns {(req: Request, res: any, next: (error?: unknown) => void) => Promise<void>}
 */
export const limit = (planwire, meter, { tenant, amount = 1, key }) => async (req, res, next) => {
  let answer, units;
  try {
    units = typeof amount == "function" ? amount(req) : amount;
    const counted = await tenant(req);
    if (counted == null || units === 0) return next();
    answer = await planwire.consume(counted, meter, units, { key: key?.(req) });
  } catch (error) {
    if (!(error instanceof UsageUnknown)) return next(error);
    answer = { allowed: false, known: false, error };
  }
  const { status, headers, body } = responseOf(meter, answer, units);
  for (const [name, value] of Object.entries(headers)) res.setHeader(name, value);
  Object.assign(/** @type {any} */ (req), { usage: answer });
  if (!body) return next();
  res.statusCode = status;
  res.end(JSON.stringify(body));
};
