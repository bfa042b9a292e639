/** Shared by the examples: opens the tenant's topic, connects the buttons, and sets the page's freshness status. */

import { topic as topicOf } from "../../client/planwire.js";

/** @param {(options: any) => any} planwire @param {object} [options] */
export const open = (planwire, options) => {
  const tenant = new URLSearchParams(location.search).get("tenant") || "demo";
  /** @param {string} path @param {object} [more] */
  const post = async (path, more) =>
    (
      await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ tenant, ...more }),
      })
    ).json();
  for (const button of document.querySelectorAll("button[data-action]"))
    if (button instanceof HTMLButtonElement)
      button.addEventListener("click", () =>
        post(`../simulate/${button.dataset.action}`, { plan: button.dataset.plan, when: button.dataset.when }),
      );
  const topic = planwire({
    url: new URL("../..", location.href).href.slice(0, -1),
    token: async () => (await post("../token")).token,
    ...options,
  }).topic(topicOf("tenant", tenant));
  topic.subscribe((/** @type {any} */ { status }) => {
    document.body.dataset.status = status;
  });
  return topic;
};
