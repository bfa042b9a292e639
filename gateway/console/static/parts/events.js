/** The topic's events with outcomes and reasons: the parked events, and the newest processed ones. */
import { retry, retryAll } from "../actions.js";
import { get } from "../api.js";
import { causeOfParked, CAUSES } from "../model/causes.js";
import { moment, plural } from "../model/format.js";
import { inPath, toCause } from "../model/links.js";
import { button, card, h, keyed, line, setAttribute, setText, table } from "../ui/dom.js";
import { pill, setStatus } from "../ui/pill.js";

const PARKED_HEADS = ["Event", "Type", "Reason", "Waits on", "Parked", "Tries", ""];
const HEADS = ["Time", "Outcome", "Event", "Type", "Reason"];

/** @type {Record<string, [string, string]>} outcome: its colour and what it means */
const OUTCOMES = {
  applied: ["SYNCED", "It was used: a new version shows it, or its reason says that nothing public has changed."],
  unchanged: ["NONE", "It was used and changed nothing."],
  duplicate: ["NONE", "It had come before."],
  ignored: ["NONE", "It is of a kind that changes no plan."],
  refused: ["amber", CAUSES.refused.means],
  parked: ["red", CAUSES.parked.means],
};

/** @param {string} kind */
const explained = (kind) =>
  h(
    "div",
    { class: "explained" },
    h("p", {}, CAUSES[kind].means),
    h("p", {}, h("b", {}, "What ends it: "), CAUSES[kind].ends),
    h("p", {}, h("a", { href: toCause(kind) }, CAUSES[kind].title)),
  );

/**
 * A topic's events: the parked events, and the newest that were applied or ignored.
 * @param {import("../app.js").Context} context
 * @param {string} name
 * @param {URLSearchParams} query of the place
 */
export const events = (context, name, query) => {
  const path = inPath(name);
  const wanted = query.get("event");
  const parked = table("Events that wait", PARKED_HEADS);
  const happened = table("Newest events of this topic", HEADS);
  const waiting = h("p", { class: "quiet", role: "status" });
  const none = h("p", { class: "quiet", role: "status" });
  const retries = context.may(
    "retry_topic",
    button("Retry all…", () => void retryAll(context, name)),
  );
  const causes = h("div", { class: "stack" });
  let isFound = !wanted;

  /** Marks the row named in the link, and scrolls to it once. @param {HTMLElement} row @param {string} id */
  const mark = (row, id) => {
    setAttribute(row, "class", id === wanted ? "found" : null);
    if (isFound || id !== wanted) return;
    isFound = true;
    requestAnimationFrame(() => row.scrollIntoView({ block: "center" }));
  };

  const showParked = (/** @type {any} */ answer) => {
    const found = answer.environments.flatMap((/** @type {any} */ { env, parked: those }) =>
      those.map((/** @type {any} */ event) => ({ ...event, env })),
    );
    setText(
      waiting,
      !answer.listed
        ? "The process that answers takes no webhooks: it cannot tell what waits."
        : found.length
          ? `${plural(found.length, "event")} of this topic ${found.length === 1 ? "waits" : "wait"}.`
          : "No event of this topic waits.",
    );
    parked.element.hidden = retries.hidden = !found.length;
    keyed(
      parked.body,
      found,
      (/** @type {any} */ event) => event.event_id,
      () => line(PARKED_HEADS),
      (row, event) => {
        const [id, type, reason, waits, at, tries, does] = row.children;
        mark(row, event.event_id);
        setText(id, event.event_id);
        setText(type, event.type);
        setText(reason, event.reason);
        setText(waits, event.waits_on.join(", "));
        setText(at, moment(event.parked_us));
        setText(tries, event.attempts);
        if (!does.firstElementChild)
          does.append(
            context.may(
              "retry",
              button("Retry…", () => void retry(context, event.env, event)),
            ),
          );
      },
    );
    return found;
  };

  const showEvents = (/** @type {any} */ answer) => {
    setText(
      none,
      answer.events.length
        ? `The newest ${plural(answer.events.length, "event")} that named this topic.`
        : "No event of a provider is kept for it.",
    );
    happened.element.hidden = !answer.events.length;
    keyed(
      happened.body,
      answer.events,
      (/** @type {any} */ event) => `${event.event_id} ${event.at} ${event.outcome}`,
      () => {
        const row = line(HEADS);
        row.children[1].append(pill());
        return row;
      },
      (row, event) => {
        const [time, outcome, id, type, reason] = row.children;
        const [tone, why] = OUTCOMES[event.outcome] ?? ["NONE", ""];
        mark(row, event.event_id);
        setText(time, event.at ? moment(event.at) : "");
        setStatus(/** @type {Element} */ (outcome.firstElementChild), event.outcome, why, tone);
        setText(id, event.event_id);
        setText(type, event.type);
        setText(reason, event.reason);
      },
    );
  };

  return {
    element: card(
      "events",
      "Events",
      causes,
      h("div", { class: "tools" }, waiting, retries),
      parked.element,
      none,
      happened.element,
    ),
    /** @param {AbortSignal} signal */
    load: async (signal) => {
      const [waits, answer] = await Promise.all([
        get("parked", { topic: name }, signal),
        get(`events/${path}`, {}, signal),
      ]);
      const found = showParked(waits);
      showEvents(answer);
      const newest = answer.events[0];
      const isRefused = [newest, answer.events.find((/** @type {any} */ event) => event.event_id === wanted)].some(
        (event) => event?.outcome === "refused",
      );
      const kinds = [...new Set([...found.map(causeOfParked), ...(isRefused ? ["refused"] : [])])];
      keyed(
        causes,
        kinds,
        (kind) => kind,
        explained,
        () => {},
      );
      return { parked: found, newest: newest ?? null };
    },
  };
};
