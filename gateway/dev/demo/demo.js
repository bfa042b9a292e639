/**
 * The demo page: shows one tenant's plan live, with the browser client.
 *
 * It is a small product page as a customer of Planwire would build it. A click requests a change from the local
 * provider; the page changes only when a new snapshot arrives.
 */
import { planwire, topic as topicOf } from "../client/planwire.js";

const EXPECT_MS = 15_000;
const NOTICE_MS = 6_000;
const AGE_WORTH_TELLING_MS = 3_000;

const FEATURES = { basic: "Notes and folders", export: "Export", sso: "Single sign-on", audit: "Audit log" };
/** State of a customer without a stored state: the free plan. */
const DEFAULT_STATE = {
  plan: { key: "free", name: "Free", rank: 0 },
  status: "none",
  features: { basic: true },
  limits: { seats: 1, projects: 3 },
};
/** @type {Record<import("../client/planwire.js").Entitlements["status"], string>} */
const STATUSES = {
  none: "no subscription",
  incomplete: "payment in progress",
  trialing: "trial",
  active: "active",
  past_due: "payment failed",
  unpaid: "not paid",
  paused: "paused",
  canceled: "canceled",
};
const FRESHNESS = {
  connecting: "Connecting",
  fresh: "Live",
  stale: "Reconnecting",
  offline: "Offline",
  denied: "No access",
};

/** Actions whose buttons are disabled instead of hidden. */
const PERMANENT = new Set(["upgrade", "downgrade", "cancel", "seats"]);

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);
/** @param {string} text */
const titled = (text) => (text[0].toUpperCase() + text.slice(1)).replaceAll("_", " ");
/** @param {string} instant */
const day = (instant) =>
  new Date(instant).toLocaleDateString(undefined, { day: "numeric", month: "long", year: "numeric" });
/** @param {number} ms */
const clock = (ms) =>
  new Date(ms).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const tenant = new URLSearchParams(location.search).get("tenant") || "demo";
element("tenant").textContent = tenant;
element("second-tab").href = `?tenant=${encodeURIComponent(tenant)}`;

/** @param {string} path below this page's folder @param {object} body */
const post = async (path, body) => {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail ?? answer.title ?? `the server answered ${response.status}`);
  return answer;
};

/** The gateway's base URL, with any path prefix of a proxy: this module is its `/demo/demo.js`. */
const gateway = new URL("..", import.meta.url).href.slice(0, -1);
const client = planwire({ url: gateway, token: async () => (await post("token", { tenant })).token });
const topic = client.topic(topicOf("tenant", tenant));

// Rendering.

/** @param {HTMLElement} list @param {[string, string, boolean?][]} rows */
const fill = (list, rows) =>
  list.replaceChildren(
    ...rows.map(([name, value, isOn]) => {
      const isTerm = list.tagName == "DL";
      const row = document.createElement(isTerm ? "div" : "li");
      const [left, right] = [
        document.createElement(isTerm ? "dt" : "span"),
        document.createElement(isTerm ? "dd" : "span"),
      ];
      left.textContent = name;
      right.textContent = value;
      if (isOn !== undefined) row.dataset.on = String(isOn);
      row.append(left, right);
      return row;
    }),
  );

/** @param {any} state */
const renderState = (state) => {
  const { plan, status, features = {}, limits = {}, modules = {}, scheduled, pending } = state;
  element("plan").textContent = plan.name;
  element("plan").dataset.plan = plan.key;
  element("status").textContent = STATUSES[/** @type {keyof STATUSES} */ (status)] ?? status;
  element("status").dataset.status = status;
  element("status").hidden = false;
  element("scheduled").hidden = !scheduled;
  if (scheduled) element("scheduled").textContent = sentence(scheduled);
  element("pending").hidden = !pending;
  const names = [...new Set([...Object.keys(FEATURES), ...Object.keys(features)])];
  fill(
    element("features"),
    names.map((key) => [
      Object.hasOwn(FEATURES, key) ? FEATURES[/** @type {keyof FEATURES} */ (key)] : titled(key),
      features[key] ? "Included" : "Not included",
      !!features[key],
    ]),
  );
  const { seats, ...rest } = limits;
  element("seats").textContent = seats ?? "no";
  fill(
    element("limits"),
    Object.entries(rest).map(([key, value]) => [titled(key), titled(String(value))]),
  );
  const granted = /** @type {[string, string][]} */ (
    Object.entries(modules).map(([key, value]) => [titled(key), titled(String(value))])
  );
  fill(element("modules"), granted.length ? granted : [["None on this plan", ""]]);
  renderButtons(state);
};

/** @param {any} scheduled */
const sentence = ({ action, plan, effective_at, overdue }) => {
  const what = /** @type {Record<string, string>} */ ({
    cancel: "Your plan ends",
    pause: "Your plan pauses",
    resume: "Your plan resumes",
    change_plan: `You move to ${titled(plan ?? "another plan")}`,
  })[action];
  return `${what ?? titled(action)} on ${day(effective_at)}${overdue ? ", any moment now" : ""}.`;
};

/** Shows the actions that are possible in this state. @param {any} state */
const renderButtons = ({ plan, status, features = {}, limits = {}, scheduled }) => {
  const isPaying = !["none", "incomplete", "canceled"].includes(status);
  const can = /** @type {Record<string, boolean>} */ ({
    upgrade: plan.key != "pro",
    downgrade: isPaying,
    cancel: isPaying && !scheduled,
    uncancel: scheduled?.action == "cancel",
    trial: !isPaying,
    seats: isPaying && typeof limits.seats == "number",
    addon: isPaying && !features.audit,
    remove_addon: isPaying && !!features.audit,
    past_due: status == "active",
    recover: status == "past_due",
  });
  for (const button of buttons) {
    const { action = "", step } = button.dataset;
    const isOffered = can[action] && !(step == "-1" && limits.seats <= 1);
    if (PERMANENT.has(action)) button.disabled = !isOffered;
    else button.hidden = !isOffered;
  }
};

// Latency from the webhook's arrival (the gateway's clock) to the change on the screen (this machine's clock).

/** Calls `then` once the change is on the screen. @param {() => void} then */
const painted = (then) => (document.hidden ? setTimeout(then) : requestAnimationFrame(() => setTimeout(then)));

/** @param {any} cause */
const renderLatency = ({ received_at, event_type }) =>
  painted(() => {
    const ms = Math.max(0, Date.now() - Date.parse(received_at));
    element("latency").textContent =
      `webhook → screen: ${ms < 10_000 ? `${Math.round(ms)} ms` : `${Math.round(ms / 1000)} s`}`;
    element("latency").dataset.ms = String(Math.round(ms));
    element("cause").textContent = `${event_type ?? "a change"}, received at ${clock(Date.parse(received_at))}`;
  });

/** @param {any} snapshot */
const renderFreshness = ({ status, asOf, reason }) => {
  element("freshness").dataset.status = status;
  element("freshness").title = reason ? String(reason) : "";
  document.body.dataset.status = status;
  const age = Date.now() - asOf;
  const told = !asOf ? "" : status == "fresh" && age < AGE_WORTH_TELLING_MS ? ", now" : `, as of ${clock(asOf)}`;
  element("freshness-text").textContent = FRESHNESS[/** @type {keyof FRESHNESS} */ (status)] + told;
};

/** The snapshot on the screen. @type {any} */
let last;

topic.subscribe((snapshot) => {
  const { state, version, status, cause } = snapshot;
  renderFreshness(snapshot);
  if (status == "connecting") return;
  if (version !== last?.version) {
    renderState(state ?? DEFAULT_STATE);
    element("page").setAttribute("aria-busy", "false");
    if (last && cause?.received_at) renderLatency(cause);
  }
  if (version !== last?.version || status != last.status)
    element("announcement").textContent = `Plan ${(state ?? DEFAULT_STATE).plan.name}. ${FRESHNESS[status]}.`;
  last = snapshot;
});

setInterval(() => renderFreshness(topic.getSnapshot()), 1000);

// Requesting a change.

let noticeTimer = 0;

/** @param {string} text */
const notify = (text) => {
  element("notice").textContent = text;
  element("notice").hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (element("notice").hidden = true), NOTICE_MS);
};

const buttons = /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("button[data-action]"));

for (const button of buttons)
  button.addEventListener("click", async () => {
    const { action, step, plan, when, addon } = button.dataset;
    const { version, state } = topic.getSnapshot();
    const quantity = step ? (state ?? DEFAULT_STATE).limits.seats + Number(step) : undefined;
    button.setAttribute("aria-busy", "true");
    // Call `expect` before the request, so that the gateway already waits while the webhook is on its way.
    const changed = topic.expect({ after: version, timeoutMs: EXPECT_MS });
    try {
      const { transaction_id } = await post(`simulate/${action}`, { tenant, plan, when, addon, quantity });
      // A success page names the checkout that it comes back from: then it is right even if the webhook never comes.
      if (transaction_id) topic.expect({ after: version, timeoutMs: EXPECT_MS, checkout: transaction_id });
      if (!(await changed)) notify("The provider accepted it, but nothing has changed so far.");
    } catch (error) {
      notify(error instanceof Error ? titled(error.message) : String(error));
    }
    button.setAttribute("aria-busy", "false");
  });
