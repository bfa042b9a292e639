/** The page of a cause: its explanation, what ends it, and everything that it affects now. */
import { CAUSES } from "../model/causes.js";
import { ago } from "../model/format.js";
import { gatewayList } from "../parts/gateways.js";
import { card, h, setAttribute, setText } from "../ui/dom.js";
import { listOf } from "./cause_lists.js";

/**
 * The page of one cause.
 * @param {HTMLElement} root
 * @param {import("../app.js").Context} context
 * @param {import("../router.js").Place} place
 */
export const causeView = (root, context, { name, query }) => {
  const unknown = { title: "Nothing is known of that", means: "", look: "", ends: "" };
  const { means, look, ends, title } = Object.hasOwn(CAUSES, name) ? CAUSES[name] : unknown;
  const list = listOf(name, context, query);
  const gateways = gatewayList();
  const message = h("p", { class: "quiet", role: "status" });
  const steps = [
    ["What it means", means],
    ["How to tell", look],
    ["What ends it", ends],
  ].filter(([, text]) => text);
  root.replaceChildren(
    h("p", {}, h("a", { href: "#/" }, "All topics")),
    h("h1", {}, title),
    card(
      "cause",
      "Why",
      h("dl", { class: "cause" }, ...steps.map(([step, text]) => h("div", {}, h("dt", {}, step), h("dd", {}, text)))),
    ),
    ...(list ? [card("now", "Now", ...list.elements)] : []),
    ...(name === "gateway" ? [card("gateways", "Gateways", gateways.element, message)] : []),
  );
  return {
    watches: [],
    lists: [],
    sections: ["cause", list ? "now" : "gateways"],
    draw: () => {
      const known = context.live.gateways();
      const wanted = query.get("name");
      gateways.show(known);
      for (const item of gateways.element.children)
        setAttribute(item, "class", /** @type {HTMLElement} */ (item).dataset.gateway === wanted ? "found" : null);
      const one = known.find((each) => each.name === wanted);
      if (wanted)
        setText(
          message,
          one
            ? one.report?.at && `${wanted} reported ${ago(Date.now() / 1000 - one.report.at)}.`
            : `${wanted} is not among the gateways any more.`,
        );
    },
    /** @param {AbortSignal} signal */
    poll: async (signal) => list?.poll(signal),
  };
};
