/** What the coloured words mean, and how one is shown: the word, and for whoever asks the sentence behind it. */
import { h, say, set } from "./dom.js";

/** Of tabs and gateways; the worst first. */
export const EXPLAINED = {
  NACKED: "The page received the newest version and could not use it.",
  BEHIND: "It does not show the newest version, or has not said so in time.",
  STALE: "It has what its gateway has, but that is not proved to be the newest.",
  SENT: "The newest version was sent, and no answer is due: it was just sent, or the audience is a crowd.",
  SYNCED: "The tab has said that it shows the newest version.",
};

/** @typedef {keyof EXPLAINED} Status */

/** @type {Status[]} */
export const TROUBLE = ["NACKED", "BEHIND", "STALE"];

/** The worst status that occurs, or null. @param {Record<string, number>} counts @returns {Status | null} */
export const worst = (counts) =>
  /** @type {Status[]} */ (Object.keys(EXPLAINED)).find((status) => counts[status]) ?? null;

/** A place for a coloured word; `isStop` lets Tab reach it. */
export const pill = (isStop = true) =>
  h("span", { class: "pill", tabindex: isStop ? "0" : null }, h("span"), h("span", { class: "unseen" }));

/**
 * Shows a word and why, in a colour: `tone` is a status, or one of those of console.css.
 * @param {Element} element made by `pill` @param {string} word @param {string} why @param {string} [tone]
 */
export const tell = (element, word, why, tone = word) => {
  set(element, "data-status", tone);
  set(element, "data-why", why);
  say(/** @type {Element} */ (element.firstElementChild), word);
  say(/** @type {Element} */ (element.lastElementChild), why && `: ${why}`);
};

/** @param {Element} element made by `pill` @param {Status | null} status @param {string} [why] */
export const tellStatus = (element, status, why) => {
  if (status) tell(element, status, why || EXPLAINED[status]);
  else tell(element, "no tabs", "No tab is connected to it.", "NONE");
};
