/**
 * The demo page: shows one tenant's plan live, with the browser client.
 *
 * It is a small product page as a customer of Planwire would build it. A click requests a change from the local
 * provider; the page changes only when a new snapshot arrives.
 */
import { showApplications } from "./applications.js";
import { clock, fill, named, sentence, STATUSES, titled } from "./format.js";
import { showPurchases } from "./purchases.js";
import { request, sold, tenant, topic } from "./session.js";
import { showUsage } from "./usage.js";

const AGE_WORTH_TELLING_MS = 3_000;

const FEATURES = { basic: "Notes and folders", export: "Export", sso: "Single sign-on", audit: "Audit log" };
/** State of a customer without a stored state: the free plan. */
const DEFAULT_STATE = {
  plan: { key: "free", name: "Free", rank: 0 },
  status: "none",
  features: { basic: true },
  limits: { seats: 1, projects: 3, api_calls: 20 },
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
element("tenant").textContent = tenant;
element("second-tab").href = `?tenant=${encodeURIComponent(tenant)}`;

/** The leading application, whose plan the page is about; "" if the provider sells one only. */
let leading = "";
/** The add-on that its buttons sell; "" if none is sold. */
let extra = "audit";
/** The plan that the first button sells. */
let best = { key: "pro", name: "Pro", rank: Infinity };

// Rendering.

/** @param {any} state */
const renderState = (state) => {
  const { plan, status, scheduled, pending } = state;
  const { features = {}, limits = {}, modules = {} } = state.apps?.[leading] ?? state;
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
  element("seats").textContent = seats ?? "";
  element("seats").closest(".seats").hidden = seats === undefined;
  fill(
    element("limits"),
    Object.entries(rest).map(([key, value]) => [named(key), titled(String(value))]),
  );
  const granted = /** @type {[string, string][]} */ (
    Object.entries(modules).map(([key, value]) => [titled(key), titled(String(value))])
  );
  fill(element("modules"), granted.length ? granted : [["None on this plan", ""]]);
  renderButtons(state);
};

/** Shows the actions that are possible in this state. @param {any} state */
const renderButtons = (state) => {
  const { plan, status, scheduled, period } = state;
  const { features = {}, limits = {} } = state.apps?.[leading] ?? state;
  // What is bought once is active without a period: there is nothing to change or to cancel.
  const isPaying = !["none", "incomplete", "canceled"].includes(status) && (status != "active" || !!period);
  const can = /** @type {Record<string, boolean>} */ ({
    upgrade: plan.rank < best.rank && plan.key != best.key,
    downgrade: isPaying,
    cancel: isPaying && !scheduled,
    uncancel: scheduled?.action == "cancel",
    trial: !isPaying && status != "active",
    seats: isPaying && typeof limits.seats == "number",
    addon: isPaying && !!extra && !features[extra],
    remove_addon: isPaying && !!extra && !!features[extra],
    past_due: isPaying && status == "active",
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

const buttons = /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("button[data-action]"));

for (const button of buttons)
  button.addEventListener("click", () => {
    const { action = "", step, plan, when, addon } = button.dataset;
    const state = topic.getSnapshot().state ?? DEFAULT_STATE;
    const { limits } = state.apps?.[leading] ?? state;
    void request(button, action, { plan, when, addon, quantity: step ? limits.seats + Number(step) : undefined });
  });

// What is sold on the account.

/** Names what the buttons sell: the highest plan, and the first add-on. @param {any[]} offers of the leading application */
const offerOwn = (offers) => {
  const addon = offers.find(({ kind }) => kind == "addon");
  extra = addon?.key ?? "";
  best = offers.findLast(({ kind }) => kind == "plan") ?? best;
  for (const button of buttons) {
    const { action = "" } = button.dataset;
    if (action == "upgrade") button.textContent = `Upgrade to ${best.name}`;
    if (action == "trial") button.textContent = `Start a ${best.name} trial`;
    if (button.dataset.plan) button.dataset.plan = best.key;
    if (addon && button.dataset.addon) {
      button.dataset.addon = addon.key;
      button.textContent = `${action == "addon" ? "Add" : "Remove"} ${addon.name}`;
    }
  }
};

showUsage(element("page"));

const answer = await sold();
leading = answer.leading;
offerOwn(answer.offers.filter(({ app, amount, is_once }) => amount && !is_once && (app == leading || !app)));
showApplications(element("page"), answer);
showPurchases(element("page"), answer.offers);
if (last) renderState(last.state ?? DEFAULT_STATE);
