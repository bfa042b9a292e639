/** What a tenant has used of its limits, in words. Pure. */
import { count, local } from "./format.js";

/** The word, explanation and tone of each status. @type {Record<string, [string, string, string]>} */
const STATUSES = {
  ok: ["OK", "No threshold of the meter is reached.", "SYNCED"],
  near: ["NEAR", "A threshold of the meter is reached.", "amber"],
  reached: ["REACHED", "Nothing is left.", "red"],
  over: ["OVER", "More is used than the limit allows.", "red"],
  unknown: ["NOT KNOWN", "The tenant's state does not say the limit: no call is denied, and none can be counted.", "NONE"],
};

/** What happened, by the operation. @type {Record<string, string>} */
const OPERATIONS = { cancel: "give back", adjust: "correct", grant: "grant credits" };

/** What is to be known about the whole answer; "" for nothing. @param {any} answer of `usage/TOPIC` */
export const remarkOf = ({ entitlements, private_hidden: isHidden }) =>
  [
    entitlements === 0 && "The tenant has no state: the limits are those of the default plan.",
    isHidden && "This login may not see keys, reasons and names: its token has not the scope private.",
  ]
    .filter(Boolean)
    .join(" ");

/** The name of a meter, with its application. @param {any} meter */
export const nameOf = ({ meter, app }) => (app ? `${meter} (${app})` : meter);

/** The word, explanation and tone of a meter's status. @param {any} meter */
export const statusOf = ({ status }) => STATUSES[status] ?? [String(status), "", "NONE"];

/** An amount, or that it is not known. @param {number | "unlimited" | undefined} units */
export const amount = (units) => (units === undefined ? "not known" : units === "unlimited" ? units : count(units));

/** The filled share of a meter's bar from 0 to 1, or null if there is no limit to fill. @param {any} meter */
export const shareOf = ({ used, reserved, limit }) =>
  typeof limit !== "number" ? null : limit === 0 ? 1 : Math.min(1, (used + reserved) / limit);

/** What is used of a meter, in one line. @param {any} meter */
export const usedOf = ({ used, reserved, limit, remaining }) =>
  [
    limit === undefined
      ? `${count(used)} used of a limit that is not known`
      : limit === "unlimited"
        ? `${count(used)} used, unlimited`
        : `${count(used)} of ${count(limit)} used`,
    reserved && `${count(reserved)} reserved`,
    typeof remaining === "number" && `${count(remaining)} left`,
  ]
    .filter(Boolean)
    .join(", ");

/** A time without a fraction of 0. @param {string} instant */
const time = (instant) => local(instant).replace(/\.000$/, "");

/** The window of a meter, in one line. @param {any} meter */
export const windowOf = ({ period }) =>
  period ? `since ${time(period.starts_at)}, resets ${time(period.ends_at)}` : "never resets";

/** The credits of a meter that were bought or granted once, a line each. @param {any} meter @returns {string[]} */
export const grantsOf = ({ grants = [] }) =>
  grants.map(
    (/** @type {any} */ { id, amount: whole, remaining, ends_at: ends }) =>
      `${id}: ${count(remaining)} of ${count(whole)} left${ends ? `, until ${time(ends)}` : ""}`,
  );

/** The cells of a call: time, meter, what, units, what came of it, used, key. @param {any} call @returns {string[]} */
export const callCells = ({ at, meter, operation, amount: units, allowed, used, key }) => [
  local(at),
  meter,
  OPERATIONS[operation] ?? operation,
  count(units),
  allowed ? "counted" : "denied",
  count(used),
  key ?? "",
];

/** The cells of a correction: time, meter, what, used, reason, by. @param {any} correction @returns {string[]} */
export const correctionCells = ({ at, meter, operation, how, amount: units, used, reason, by }) => [
  local(at),
  meter,
  operation === "grant" ? `granted ${count(units)} credits` : how === "to" ? `set to ${count(units)}` : `${units > 0 ? "+" : ""}${count(units)}`,
  count(used),
  reason ?? "",
  by ?? "",
];

/** The cells of an ended window: meter, start, end, used, limit. @param {any} window @returns {string[]} */
export const windowCells = ({ meter, starts_at: starts, ends_at: ends, used, limit }) => [
  meter,
  starts ? time(starts) : "",
  time(ends),
  count(used),
  amount(limit),
];
