/** The list of what needs attention: each item has a colour, a reason, a time, and a link to its explanation. */
import { ago } from "../model/format.js";
import { h, keyed, setAttribute, setText } from "../ui/dom.js";

/** @typedef {import("../model/attention.js").Item} Item */

/**
 * The list of what needs attention.
 * @param {string} label
 * @param {string} calm the text without items
 * @param {(item: Item) => boolean} [follow] handles a click; returns false to follow the link instead
 */
export const attentionList = (label, calm, follow = () => false) => {
  const list = h("ol", { class: "attention", "aria-label": label, hidden: true });
  const nothing = h("p", { class: "calm", role: "status", hidden: true }, calm);
  return {
    elements: [nothing, list],
    /** @param {Item[]} items @param {boolean} isKnown whether all polls have answered, so that an empty list is certain */
    show: (items, isKnown) => {
      keyed(
        list,
        items,
        ({ key }) => key,
        () => h("li", {}, h("a"), h("span", { class: "quiet when" }), h("span", { class: "quiet" })),
        (element, item) => {
          const [anchor, when, why] = element.children;
          setAttribute(element, "data-severity", item.severity);
          setAttribute(anchor, "href", item.link);
          anchor.onclick = (/** @type {Event} */ event) => {
            if (follow(item)) event.preventDefault();
          };
          setText(anchor, item.title);
          setText(when, item.at ? ago(Date.now() / 1000 - item.at / 1e6) : "");
          setText(why, item.why);
        },
      );
      list.hidden = !items.length;
      nothing.hidden = items.length > 0 || !isKnown;
    },
  };
};
