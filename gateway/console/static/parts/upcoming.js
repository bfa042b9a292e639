/** The topic's scheduled changes and timers, and the overrides of its subscription. */
import { get, ApiError } from "../api.js";
import { local } from "../model/format.js";
import { inPath } from "../model/links.js";
import { card, h, keyed, line, setText, showFacts, table } from "../ui/dom.js";

const TIMER_HEADS = ["Due", "What for"];
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

/** A topic's scheduled changes, timers and overrides. @param {string} name of the topic */
export const upcoming = (name) => {
  const path = inPath(name);
  const facts = h("dl", { class: "facts" });
  const nothing = h("p", { class: "quiet", role: "status" });
  const timers = table("Timers", TIMER_HEADS);
  const overrides = table("Overrides", OVERRIDE_HEADS);
  const noOverrides = h("p", { class: "quiet", role: "status" });

  const showSchedule = (/** @type {any} */ answer) => {
    const known = [
      ["scheduled change", answer.scheduled && flat(answer.scheduled)],
      ["pending", answer.pending && flat(answer.pending)],
      ["valid until", answer.valid_until && when(answer.valid_until)],
      ["trial ends", answer.trial_ends_at && when(answer.trial_ends_at)],
      ["grace ends", answer.grace_ends_at && when(answer.grace_ends_at)],
    ].filter(([, text]) => text);
    showFacts(facts, /** @type {[string, string][]} */ (known));
    const found = answer.timers ?? [];
    setText(
      nothing,
      !known.length && !found.length
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
      (/** @type {any} */ override) => `${override.kind} ${override.name}`,
      () => line(OVERRIDE_HEADS),
      (row, override) => {
        const [kind, what, value, until, reason] = row.children;
        setText(kind, override.kind);
        setText(what, override.name);
        setText(value, override.revoke ? "taken away" : JSON.stringify(override.value));
        setText(until, override.expires_at ? when(override.expires_at) : "removed");
        setText(reason, override.reason);
      },
    );
  };

  return {
    element: card(
      "upcoming",
      "Scheduled, timers and overrides",
      nothing,
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
