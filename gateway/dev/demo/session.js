/** The page's tenant: its topic, what is sold to it, and how a change is requested. */
import { planwire, topic as topicOf } from "../client/planwire.js";
import { titled } from "./format.js";

const EXPECT_MS = 15_000;
const NOTICE_MS = 6_000;
/** Actions after which the provider has a payment that names the tenant, as a success page would. */
const BUYING = new Set(["upgrade", "trial", "addon", "buy"]);

export const tenant = new URLSearchParams(location.search).get("tenant") || "demo";

/** @param {string} path below this page's folder @param {RequestInit} [options] */
const answerOf = async (path, options) => {
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail ?? answer.title ?? `the server answered ${response.status}`);
  return answer;
};

/** @param {string} path @param {object} body */
const post = (path, body) =>
  answerOf(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

/** The gateway's base URL, with any path prefix of a proxy: this module is its `/demo/session.js`. */
const gateway = new URL("..", import.meta.url).href.slice(0, -1);
export const client = planwire({ url: gateway, token: async () => (await post("token", { tenant })).token });

/** @type {import("../client/planwire.js").Topic<any>} */
export const topic = client.topic(topicOf("tenant", tenant));
export const tenantTopic = topicOf("tenant", tenant);

/**
 * What the local provider sells: the leading application, all applications, and the offers. Without a provider, nothing.
 * @returns {Promise<{leading: string, apps: string[], offers: any[]}>}
 */
export const sold = () => answerOf("simulate/offers").catch(() => ({ leading: "", apps: [], offers: [] }));

/** What the tenant has bought once. @returns {Promise<any[]>} */
export const purchases = async () =>
  (await answerOf(`simulate/purchases?tenant=${encodeURIComponent(tenant)}`)).purchases;

let noticeTimer = 0;

/** @param {string} text */
export const notify = (text) => {
  const notice = /** @type {HTMLElement} */ (document.getElementById("notice"));
  notice.textContent = text;
  notice.hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (notice.hidden = true), NOTICE_MS);
};

/**
 * Requests a change of the local provider, and waits until a snapshot has it.
 * @param {HTMLElement} button that asks for it
 * @param {string} action
 * @param {object} parameters
 * @param {boolean} [changes] whether the plan changes by it
 */
export const request = async (button, action, parameters, changes = true) => {
  const { version } = topic.getSnapshot();
  button.setAttribute("aria-busy", "true");
  // Call `expect` before the request, so that the gateway already waits while the webhook is on its way.
  const changed = changes ? topic.expect({ after: version, timeoutMs: EXPECT_MS }) : Promise.resolve(true);
  try {
    const { transaction_id } = await post(`simulate/${action}`, { tenant, ...parameters });
    // A success page names the checkout that it comes back from: then it is right even if the webhook never comes.
    if (transaction_id && BUYING.has(action))
      topic.expect({ after: version, timeoutMs: EXPECT_MS, checkout: transaction_id });
    if (!(await changed)) notify("The provider accepted it, but nothing has changed so far.");
  } catch (error) {
    notify(error instanceof Error ? titled(error.message) : String(error));
  }
  button.setAttribute("aria-busy", "false");
};

/**
 * Has the server count, as a back end does for a request of its own API. The page shows the count when it is announced.
 * @param {HTMLElement} button that asks for it
 * @param {string} meter
 * @param {"consume" | "release"} operation
 * @param {number} amount
 * @returns {Promise<{allowed: boolean, remaining: number | "unlimited"} | undefined>} undefined: not known
 */
export const use = async (button, meter, operation, amount) => {
  button.setAttribute("aria-busy", "true");
  try {
    return await post("use", { tenant, meter, operation, amount });
  } catch (error) {
    notify(error instanceof Error ? titled(error.message) : String(error));
  } finally {
    button.setAttribute("aria-busy", "false");
  }
};
