/** The differences between two versions of a topic, by path. */
import { get } from "../api.js";
import { moment, plural } from "../model/format.js";
import { inPath } from "../model/links.js";
import { h, keyed, line, setAttribute, setText, table } from "../ui/dom.js";

const HEADS = ["", "Path", "A", "B"];

/** @param {{old: string | null, new: string | null}} item */
const sign = (item) => (item.old == null ? ["+", "added"] : item.new == null ? ["−", "removed"] : ["±", "changed"]);

/** The table of differences between two versions. @param {string} name of the topic */
export const difference = (name) => {
  const { element: scroll, body } = table("What differs", HEADS);
  const message = h("p", { class: "quiet", role: "status" });
  let shown = "";
  scroll.hidden = true;

  return {
    element: h("div", { id: "diff", class: "stack" }, message, scroll),
    /** @param {{from: number, to: number} | null} wanted */
    show: async (wanted) => {
      const key = wanted ? `${wanted.from} ${wanted.to}` : "";
      if (key === shown) return;
      shown = key;
      scroll.hidden = true;
      if (!wanted) return setText(message, "");
      try {
        const answer = await get(`diff/${inPath(name)}`, wanted);
        if (shown !== key) return;
        const size = answer.differences.length;
        const text = size ? `${plural(size, "difference")}${answer.more ? " and more" : ""}` : "No difference";
        setText(message, `${text} from A, ${moment(wanted.from)}, to B, ${moment(wanted.to)}.`);
        scroll.hidden = !size;
        keyed(
          body,
          answer.differences,
          (/** @type {any} */ item) => item.path,
          () => line(HEADS),
          (row, item) => {
            const [mark, where, before, after] = row.children;
            const [symbol, word] = sign(item);
            setText(mark, symbol);
            setAttribute(mark, "aria-label", word);
            setText(where, item.path || "/ (the whole state)");
            setText(before, item.old ?? "absent");
            setText(after, item.new ?? "absent");
            setAttribute(before, "class", item.old == null ? "quiet" : "removed");
            setAttribute(after, "class", item.new == null ? "quiet" : "added");
          },
        );
      } catch (error) {
        // The message stays until the next choice or version, which asks again.
        setText(message, error instanceof Error ? `${error.message}.` : "");
      }
    },
  };
};
