/** Words, dates, amounts and lists as the page shows them. */

/** @type {Record<import("../client/planwire.js").Entitlements["status"], string>} */
export const STATUSES = {
  none: "no subscription",
  incomplete: "payment in progress",
  trialing: "trial",
  active: "active",
  past_due: "payment failed",
  unpaid: "not paid",
  paused: "paused",
  canceled: "canceled",
};

/** @param {string} text */
export const titled = (text) => (text[0].toUpperCase() + text.slice(1)).replaceAll("_", " ");

const NAMES = /** @type {Record<string, string>} */ ({ api_calls: "API calls", ai: "AI credits" });

/** The name of a limit. @param {string} key */
export const named = (key) => NAMES[key] ?? titled(key);

/** @param {string} instant */
export const day = (instant) =>
  new Date(instant).toLocaleDateString(undefined, { day: "numeric", month: "long", year: "numeric" });

/** @param {number} ms */
export const clock = (ms) =>
  new Date(ms).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** @param {number} cents of a US dollar, the simulator's currency */
export const money = (cents) => (cents / 100).toLocaleString(undefined, { style: "currency", currency: "USD" });

/** What a scheduled change says. @param {any} scheduled @param {string} [what] that changes */
export const sentence = ({ action, plan, effective_at, overdue }, what = "Your plan") => {
  const words = /** @type {Record<string, string>} */ ({
    cancel: `${what} ends`,
    pause: `${what} pauses`,
    resume: `${what} resumes`,
    change_plan: `You move to ${titled(plan ?? "another plan")}`,
  })[action];
  return `${words ?? titled(action)} on ${day(effective_at)}${overdue ? ", any moment now" : ""}.`;
};

/**
 * An element with its text or children.
 * @param {string} name @param {Record<string, string>} attributes @param {(Node | string)[]} children
 */
export const make = (name, attributes, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

/** @param {HTMLElement} list @param {[string, string, boolean?][]} rows */
export const fill = (list, rows) =>
  list.replaceChildren(
    ...rows.map(([name, value, isOn]) => {
      const isTerm = list.tagName == "DL";
      const row = make(isTerm ? "div" : "li", isOn === undefined ? {} : { "data-on": String(isOn) });
      row.append(make(isTerm ? "dt" : "span", {}, name), make(isTerm ? "dd" : "span", {}, value));
      return row;
    }),
  );
