/** What a tenant has used of its limits: a bar for each meter, the newest calls, corrections and ended windows. */
import { get, ApiError } from "../../api.js";
import { inPath } from "../../model/links.js";
import * as usage from "../../model/usage.js";
import { button, card, h, keyed, line, setAttribute, setText, table } from "../../ui/dom.js";
import { pill, setStatus } from "../../ui/pill.js";
import * as dialogs from "./dialogs.js";

const CALL_HEADS = ["Time", "Meter", "Call", "Units", "Outcome", "Used then", "Key"];
const CORRECTION_HEADS = ["Time", "Meter", "Correction", "Used then", "Reason", "By"];
const WINDOW_HEADS = ["Meter", "From", "To", "Used", "Limit"];

/** A list of what happened: its heading, its table, and a remark where there is nothing. @param {string} title @param {string[]} heads */
const list = (title, heads) => {
  const { element, body } = table(title, heads);
  const none = h("p", { class: "quiet" }, "None.");
  return {
    elements: [h("h3", {}, title), none, element],
    /** @param {any[]} found @param {(each: any) => string[]} cells @param {(each: any) => boolean} [isFound] */
    show: (found, cells, isFound = () => false) => {
      none.hidden = found.length > 0;
      element.hidden = !found.length;
      const seen = new Map();
      keyed(
        body,
        found,
        (each) => {
          const name = JSON.stringify(each);
          seen.set(name, (seen.get(name) ?? 0) + 1);
          return `${name} ${seen.get(name)}`;
        },
        () => line(heads),
        (row, each) => {
          setAttribute(row, "class", isFound(each) ? "found" : null);
          cells(each).forEach((text, index) => setText(row.children[index], text));
        },
      );
    },
  };
};

/** A meter: its name, status, bar and what is left. */
const makeMeter = () => {
  const bar = h("progress", { max: "1" });
  return h("li", { class: "meter" }, h("h3", {}, h("span"), pill()), bar, h("p"), h("p", { class: "quiet" }), h("ul"));
};

/** @param {any} element made by `makeMeter` @param {any} meter */
const showMeter = (element, meter) => {
  const [head, bar, used, when, grants] = element.children;
  const share = usage.shareOf(meter);
  const [word, why, tone] = usage.statusOf(meter);
  setText(head.firstElementChild, usage.nameOf(meter));
  setStatus(head.lastElementChild, word, why, tone);
  bar.hidden = share === null;
  setAttribute(bar, "aria-label", `${usage.nameOf(meter)}: used`);
  setAttribute(bar, "data-status", tone);
  if (share !== null) bar.value = share;
  setText(used, usage.usedOf(meter));
  setText(when, `${meter.kind}, ${usage.windowOf(meter)}`);
  keyed(
    grants,
    usage.grantsOf(meter),
    (text) => text,
    () => h("li"),
    (row, text) => setText(row, text),
  );
};

/**
 * The card of a tenant's usage; hidden where the catalog has no meter.
 * @param {import("../../app.js").Context} context
 * @param {string} name of the tenant's topic, or of its usage topic
 */
export const usageCard = (context, name) => {
  const remark = h("p", { class: "quiet", role: "status" });
  const meters = h("ul", { class: "meters", "aria-label": "Meters" });
  const calls = list("Newest calls", CALL_HEADS);
  const corrections = list("Corrections", CORRECTION_HEADS);
  const windows = list("Ended windows", WINDOW_HEADS);
  const details = h("div", {}, ...calls.elements, ...corrections.elements, ...windows.elements);
  /** @type {any} */
  let answer = { meters: [] };
  const grant = context.may(
    "grant_credits",
    button("Grant credits…", () => void dialogs.grant(context, answer)),
  );
  const tools = h(
    "div",
    { class: "tools" },
    context.may(
      "adjust_usage",
      button("Correct the use…", () => void dialogs.adjust(context, answer)),
    ),
    grant,
  );
  const element = card("usage", "Usage", tools, remark, meters, details);
  element.hidden = true;

  /** @param {any} found */
  const show = (found) => {
    answer = found;
    element.hidden = !found.why && !found.meters.length;
    if (element.hidden) return;
    for (const part of [tools, meters, details]) part.hidden = Boolean(found.why);
    setText(remark, found.why ?? usage.remarkOf(found));
    remark.hidden = !remark.textContent;
    if (found.why) return;
    grant.hidden = !found.meters.some((/** @type {any} */ { kind }) => kind === "credits");
    keyed(meters, found.meters, usage.nameOf, makeMeter, showMeter);
    calls.show(found.calls, usage.callCells, ({ allowed }) => !allowed);
    corrections.show(found.corrections, usage.correctionCells);
    windows.show(found.windows, usage.windowCells);
  };

  return {
    element,
    /** Returns whether the tenant has usage to show. @param {AbortSignal} signal */
    load: async (signal) => {
      show(
        await get(`usage/${inPath(name)}`, {}, signal).catch((error) => {
          if (error instanceof ApiError && error.status < 500) return { why: `${error.message}.`, meters: [] };
          throw error;
        }),
      );
      return !element.hidden;
    },
  };
};
