/** A coloured word with an explanation in one sentence. */
import { EXPLAINED } from "../model/status.js";
import { h, setAttribute, setText } from "./dom.js";

/** @typedef {import("../model/status.js").Status} Status */

/** An element for a coloured word; `isStop`: it can be reached with Tab. */
export const pill = (isStop = true) =>
  h("span", { class: "pill", tabindex: isStop ? "0" : null }, h("span"), h("span", { class: "unseen" }));

/**
 * Shows a word and its explanation in a colour: `tone` is a status, or another tone of styles/frame.css.
 * @param {Element} element made by `pill` @param {string} word @param {string} why @param {string} [tone]
 */
export const setStatus = (element, word, why, tone = word) => {
  setAttribute(element, "data-status", tone);
  setAttribute(element, "data-why", why);
  setText(/** @type {Element} */ (element.firstElementChild), word);
  setText(/** @type {Element} */ (element.lastElementChild), why && `: ${why}`);
};

/**
 * Shows a tab's status and its explanation; null: there is no tab.
 * @param {Element} element made by `pill`
 * @param {Status | null} status
 * @param {string} [why]
 */
export const setTabStatus = (element, status, why) => {
  if (status) setStatus(element, status, why || EXPLAINED[status]);
  else setStatus(element, "no tabs", "No tab is connected to it.", "NONE");
};
