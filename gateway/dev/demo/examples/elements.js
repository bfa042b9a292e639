/** The plan in plain HTML: custom elements in the page's markup show its values. */
import { define } from "../../client/elements.js";
import { planwire } from "../../client/planwire.js";
import { open } from "./shared.js";

const topic = open(planwire);
define(topic);
topic.subscribe((/** @type {any} */ { status }) => {
  /** @type {HTMLElement} */ (document.getElementById("status")).textContent = status;
});
