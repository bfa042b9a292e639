/** The topic's applications, scheduled changes and timers, and the overrides of its subscription. */
import * as dialogs from "../plan_actions.js";
import { get, ApiError } from "../api.js";
import { local } from "../model/format.js";
import { inPath } from "../model/links.js";
import { button, card, h, keyed, line, setText, showFacts, table } from "../ui/dom.js";

const TIMER_HEADS = ["Due", "What for"];
const APP_HEADS = ["Application", "Plan", "Status", "What comes"];
const OVERRIDE_HEADS = ["Kind", "Name", "Value", "Until", "Reason"];

const TIMERS = {
  time: "the state changes by time: it is worked out anew",
  audit: "the provider is asked whether all is as known",
};

/** @param {string} instant */
const when = (instant) => {
  const seconds = (Date.parse(instant) - Date.now()) / 1000;
  return Number.isNaN(seconds)
    ? instant
    : `${local(instant)} (${seconds < 0 ? "overdue" : `in ${Math.ceil(seconds / 3600)} h`})`;
};

/** An object's members on one line. @param {Record<string, unknown>} value */
const flat = (value) =>
  Object.entries(value)
    .map(
      ([name, item]) =>
        `${name.replace(/_at$/, "")} ${name.endsWith("_at") ? when(String(item)) : typeof item === "string" ? item : JSON.stringify(item)}`,
    )
    .join(", ");

/** What an override gives. @param {any} override */
const shownValue = ({ kind, value, revoke, trial }) => {
  if (revoke) return "taken away";
  if (kind === "version") return `moved to ${value}`;
  if (kind !== "plan") return JSON.stringify(value);
  return `${trial ? "trial" : "granted"}${value === true ? "" : `, ${value} units`}`;
};

/**
 * What comes by time alone, of a topic or of one of its applications.
 * @param {any} of
 * @returns {[string, string][]}
 */
const coming = (of) =>
  /** @type {[string, string][]} */ (
    [
      ["scheduled change", of.scheduled && flat(of.scheduled)],
      ["pending", of.pending && flat(of.pending)],
      ["valid until", of.valid_until && when(of.valid_until)],
      ["trial ends", of.trial_ends_at && when(of.trial_ends_at)],
      ["grace ends", of.grace_ends_at && when(of.grace_ends_at)],
    ].filter(([, text]) => text)
  );

/**
 * A topic's applications, scheduled changes, timers and overrides.
 * @param {import("../app.js").Context} context
 * @param {string} name of the topic
 */
export const upcoming = (context, name) => {
  const path = inPath(name);
  const facts = h("dl", { class: "facts" });
  const nothing = h("p", { class: "quiet", role: "status" });
  const apps = table("Applications", APP_HEADS);
  const timers = table("Timers", TIMER_HEADS);
  const overrides = table("Overrides", OVERRIDE_HEADS);
  const noOverrides = h("p", { class: "quiet", role: "status" });

  /** The tenant's applications, as the newest answer has them. @type {string[]} */
  let known = [];
  const actions = /** @type {const} */ ([
    ["preview", "Preview a change…", dialogs.preview],
    ["schedule", "Schedule a change…", dialogs.schedule],
    ["unschedule", "Forget a change…", dialogs.unschedule],
    ["grant", "Grant a plan…", dialogs.grant],
  ]).map(([action, text, open]) =>
    context.may(
      action,
      button(text, () => void open(context, name, known)),
    ),
  );
  const tools = h("div", { class: "tools", hidden: !/(^|\/)tenant:/.test(name) }, ...actions);

  const showApps = (/** @type {any[]} */ found) => {
    apps.element.hidden = !found.length;
    keyed(
      apps.body,
      found,
      ({ app }) => app,
      () => line(APP_HEADS),
      (row, of) => {
        const [app, plan, status, comes] = row.children;
        setText(app, of.app);
        setText(plan, of.plan ?? "none");
        setText(status, of.status ?? "");
        setText(
          comes,
          coming(of)
            .map(([what, text]) => `${what}: ${text}`)
            .join("; "),
        );
      },
    );
  };

  const showSchedule = (/** @type {any} */ answer) => {
    const comes = coming(answer);
    showFacts(facts, comes);
    const each = answer.apps ?? [];
    known = each.map((/** @type {any} */ { app }) => app);
    showApps(each);
    const found = answer.timers ?? [];
    setText(
      nothing,
      !comes.length && !found.length
        ? answer.listed
          ? "Nothing is scheduled, and no timer is set."
          : "The process that answers takes no webhooks: it cannot tell."
        : "",
    );
    nothing.hidden = !nothing.textContent;
    timers.element.hidden = !found.length;
    keyed(
      timers.body,
      found,
      (/** @type {any} */ timer) => timer.kind,
      () => line(TIMER_HEADS),
      (row, timer) => {
        setText(row.children[0], when(timer.due_at));
        setText(row.children[1], TIMERS[/** @type {keyof TIMERS} */ (timer.kind)] ?? timer.kind);
      },
    );
  };

  const showOverrides = (/** @type {any} */ answer) => {
    const found = answer.overrides ?? [];
    setText(
      noOverrides,
      answer.why ?? (found.length ? "" : "No override: the tenant has what its subscriptions give."),
    );
    noOverrides.hidden = !noOverrides.textContent;
    overrides.element.hidden = !found.length;
    keyed(
      overrides.body,
      found,
      (/** @type {any} */ override) => `${override.kind} ${override.name} ${override.app ?? ""}`,
      () => line(OVERRIDE_HEADS),
      (row, override) => {
        const [kind, what, value, until, reason] = row.children;
        setText(kind, override.kind);
        setText(what, override.app ? `${override.name} (${override.app})` : override.name);
        setText(value, shownValue(override));
        setText(until, override.expires_at ? when(override.expires_at) : "removed");
        setText(reason, override.by ? `${override.reason} (${override.by})` : override.reason);
      },
    );
  };

  return {
    element: card(
      "upcoming",
      "Scheduled, timers and overrides",
      tools,
      nothing,
      apps.element,
      facts,
      timers.element,
      h("h3", {}, "Overrides"),
      noOverrides,
      overrides.element,
    ),
    /** @param {AbortSignal} signal */
    load: async (signal) => {
      const [schedule, held] = await Promise.all([
        get(`schedule/${path}`, {}, signal),
        get(`overrides/${path}`, {}, signal).catch((error) => {
          if (error instanceof ApiError && error.status === 403)
            return { why: "This login may not see overrides: its token has not the scope private." };
          if (error instanceof ApiError && error.status < 500) return { why: `${error.message}.` };
          throw error;
        }),
      ]);
      showSchedule(schedule);
      showOverrides(held);
    },
  };
};
