/** The stored versions of a topic, and the choice of two to compare, which is kept in the link. */
import { replay } from "../actions.js";
import { get } from "../api.js";
import { moment } from "../model/format.js";
import { inPath } from "../model/links.js";
import { updateQuery } from "../router.js";
import { button, card, h, setAttribute, setText } from "../ui/dom.js";
import { virtual } from "../ui/virtual.js";
import { difference } from "./difference.js";

const SHOWN = 50;
const ALL = 200;

/** @param {Record<string, string>} cause */
const causeText = (cause) =>
  [cause.event_type, cause.event_id, cause.source && `from ${cause.source}`].filter(Boolean).join(" ") || "not known";

/** @param {any} entry */
const changedText = ({ changed, paths }) => {
  if (changed == null) return "the oldest kept";
  const more = changed > paths.length ? ` and ${changed - paths.length} more` : "";
  return `${paths.join(", ")}${more}` || "nothing";
};

/** @param {string} text */
const version = (text) => (/^\d{1,16}$/.test(text) ? Number(text) : null);

/**
 * A topic's versions, and the comparison of any two.
 * @param {import("../app.js").Context} context
 * @param {string} name
 * @param {URLSearchParams} query of the place
 */
export const timeline = (context, name, query) => {
  const path = inPath(name);
  const compared = difference(name);
  const none = h("p", { class: "quiet", role: "status" });
  const more = button("Show all that is kept", () => {
    count = ALL;
    load().catch((error) => setText(none, error.message));
  });
  let count = query.get("from") ? ALL : SHOWN;
  /** The user's choice, or null for the newest two. @type {{from: number, to: number} | null} */
  let chosen = null;
  const [from, to] = ["from", "to"].map((end) => version(query.get(end) ?? ""));
  if (from != null && to != null) chosen = { from, to };
  /** @type {any[]} */
  let entries = [];

  const pair = () => chosen ?? (entries.length > 1 ? { from: entries[1].version, to: entries[0].version } : null);

  const choose = (/** @type {{from: number, to: number}} */ wanted) => {
    chosen = wanted;
    updateQuery(wanted);
    list.redraw();
    compared.show(wanted);
  };

  const radio = (/** @type {"from" | "to"} */ end) =>
    h("input", {
      type: "radio",
      name: end,
      tabindex: "-1",
      onchange: (/** @type {any} */ event) => {
        const now = pair();
        if (now) choose({ ...now, [end]: Number(event.target.value) });
      },
    });

  const list = virtual({
    label: "Versions, the newest first",
    kind: "versions",
    heads: ["A", "B", "Committed", "Cause", "Verdict", "Changed", "Bytes", ""],
    make: () => [
      h("span", {}, radio("from")),
      h("span", {}, radio("to")),
      h("span"),
      h("span"),
      h("span"),
      h("span"),
      h("span"),
      h("span"),
    ],
    update: (row, entry, [a, b, time, cause, verdict, changed, bytes, does]) => {
      if (!entry) return;
      const now = pair();
      for (const [cell, end] of /** @type {[HTMLElement, "from" | "to"][]} */ ([
        [a, "from"],
        [b, "to"],
      ])) {
        const input = /** @type {HTMLInputElement} */ (cell.firstElementChild);
        input.value = String(entry.version);
        input.checked = now?.[end] === entry.version;
        setAttribute(input, "aria-label", `${end === "from" ? "Compare" : "with"} version ${entry.version}`);
      }
      setText(time, moment(entry.version));
      setAttribute(time, "title", `version ${entry.version}`);
      setText(cause, causeText(entry.cause));
      setAttribute(cause, "title", JSON.stringify(entry.cause, null, 2));
      setText(verdict, entry.verdict ?? "applied");
      setText(changed, changedText(entry));
      setAttribute(changed, "title", changedText(entry));
      setText(bytes, entry.bytes.toLocaleString("en"));
      let again = does.firstElementChild;
      if (!again)
        does.append(
          (again = context.may(
            "replay",
            button("Replay…", () => {}, { class: "plain", tabindex: "-1" }),
          )),
        );
      /** @type {HTMLButtonElement} */ (again).onclick = () => void replay(context, name, entry.version);
    },
    open: (entry) => before(entry.version),
  });

  /** Compares a version with the one before it. @param {number} newer */
  const before = (newer) => {
    const index = entries.findIndex((entry) => entry.version === newer);
    const older = entries[index + 1];
    if (older) choose({ from: older.version, to: newer });
    else setText(none, "It is the oldest version kept: there is none before it to compare it with.");
  };

  /** @param {AbortSignal} [signal] */
  const load = async (signal) => {
    const answer = await get(`timeline/${path}`, { count }, signal);
    entries = answer.versions;
    setText(
      none,
      entries.length
        ? "Compare A with B; the newest two until you choose. d compares a row with the one before."
        : "The log has no version of it.",
    );
    list.element.hidden = !entries.length;
    more.hidden = !answer.more || count === ALL;
    list.hold(entries.length, 0, entries);
    await compared.show(pair());
  };

  return {
    load,
    list,
    compare: () => {
      const entry = list.active() ?? entries[0];
      if (entry) before(entry.version);
      compared.element.scrollIntoView({ block: "nearest" });
    },
    replay: () => {
      const again = /** @type {HTMLElement | null} */ (list.row()?.querySelector("button") ?? null);
      // If the button is not allowed, the focus shows the reason.
      again?.focus();
      again?.click();
      if (!again) setText(none, "Choose a version first: 3, then j and k.");
    },
    element: card("timeline", "Timeline", none, list.element, h("div", { class: "tools" }, more), compared.element),
  };
};
