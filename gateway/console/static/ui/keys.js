/** The keyboard shortcuts of the page, and the dialog that lists them. */
import { button, h } from "./dom.js";

/** Each key with its effect. */
const HELP = [
  ["/", "search topics"],
  ["j  k", "next and previous row"],
  ["Enter", "open the row"],
  ["Esc", "close, leave the field, or back to all topics"],
  ["t", "only topics with trouble"],
  ["d", "compare the row's version with the one before"],
  ["r", "replay the row's version"],
  ["a", "actions"],
  ["1 … 9", "jump to a section"],
  ["c", "copy the link of this view"],
  ["?", "this list"],
];

/** @param {Element} target */
const isTyping = (target) => target.matches("input:not([type=checkbox], [type=radio]), select, textarea");

/**
 * Listens for keys. `act` handles a key in the current view, and returns whether it did.
 * @param {(key: string) => boolean} act
 * @param {() => void} back
 */
export const keys = (act, back) => {
  const dialog = /** @type {HTMLDialogElement} */ (
    h(
      "dialog",
      { id: "help", class: "card", "aria-labelledby": "help-head" },
      h("h2", { id: "help-head" }, "Keys"),
      h(
        "dl",
        { class: "facts keys" },
        ...HELP.map(([key, does]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, does))),
      ),
      button("Close", () => dialog.close(), { autofocus: true }),
    )
  );
  document.body.append(dialog);

  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      if (isTyping(target)) target.blur();
      else back();
    } else if (isTyping(target)) return;
    else if (event.key === "?") dialog.showModal();
    else if (!act(event.key)) return;
    event.preventDefault();
  });
  return { help: () => dialog.showModal() };
};
