/** The tables of the pages that explain a cause: everything that it concerns now, each line with a way to its topic. */
import { retry } from "./actions.js";
import { get } from "./api.js";
import { causeOfParked, CAUSES } from "./causes.js";
import { button, h, keyed, line, say, set, table } from "./dom.js";
import { count, local, moment } from "./format.js";
import { toTopic } from "./place.js";

/** @typedef {import("./app.js").Context} Context */

/** Shows a topic as the way to its page. @param {Element} cell @param {string | undefined} topic @param {Record<string, any>} query */
const showTopic = (cell, topic, query) => {
  if (cell.textContent === (topic || "not known")) return;
  cell.replaceChildren(topic ? h("a", { href: toTopic(topic, query) }, topic) : "not known");
};

/** @param {unknown} value */
const text = (value) => (value == null ? "" : typeof value === "string" ? value : JSON.stringify(value));

/**
 * A table that is asked for, and how its lines are filled.
 * @param {string} caption @param {string[]} heads
 * @param {(signal: AbortSignal) => Promise<any[]>} ask
 * @param {(item: any) => string} key
 * @param {(cells: HTMLCollection, item: any, row: HTMLElement) => void} fill
 */
const listing = (caption, heads, ask, key, fill) => {
  const { element, body } = table(caption, heads);
  const none = h("p", { class: "quiet", role: "status", hidden: true }, "None now.");
  element.hidden = true;
  return {
    elements: [none, element],
    /** @param {AbortSignal} signal */
    poll: async (signal) => {
      const items = await ask(signal);
      none.hidden = items.length > 0;
      element.hidden = !items.length;
      keyed(
        body,
        items,
        key,
        () => line(heads),
        (row, item) => fill(row.children, item, row),
      );
    },
  };
};

/** The row that the link names. @param {HTMLElement} row @param {string} id @param {URLSearchParams} query */
const mark = (row, id, query) => set(row, "class", id === query.get("event") ? "found" : null);

/** @param {"parked" | "catalog"} kind @param {Context} context @param {URLSearchParams} query */
const parked = (kind, context, query) =>
  listing(
    CAUSES[kind].title,
    ["Event", "Environment", "Type", "Topic", "Reason", "Waits on", "Parked", "Tries", ""],
    async (signal) => {
      const { environments } = await get("parked", { env: query.get("env") }, signal);
      const all = environments.flatMap((/** @type {any} */ each) =>
        each.parked.map((/** @type {any} */ event) => ({ ...event, env: each.env })),
      );
      return all.filter((/** @type {any} */ event) => causeOfParked(event) === kind);
    },
    (event) => `${event.env} ${event.event_id}`,
    ([id, env, type, topic, reason, waits, at, tries, does], event, row) => {
      mark(row, event.event_id, query);
      say(id, event.event_id);
      say(env, event.env);
      say(type, event.type);
      showTopic(topic, event.topic, { at: "events", event: event.event_id });
      say(reason, event.reason);
      say(waits, event.waits_on.join(", "));
      say(at, moment(event.parked_us));
      say(tries, event.attempts);
      if (!does.firstElementChild)
        does.append(
          context.may(
            "retry",
            button("Retry…", () => void retry(context, event.env, event)),
          ),
        );
    },
  );

const webhooks = () =>
  listing(
    CAUSES.webhooks.title,
    ["Code", "Provider", "What was said", "Times", "First", "Last"],
    async (signal) => (await get("refusals", {}, signal)).webhooks,
    (entry) => `${entry.provider} ${entry.code}`,
    ([code, provider, detail, times, first, last], entry) => {
      say(code, entry.code);
      say(provider, entry.provider);
      say(detail, entry.detail);
      say(times, count(entry.count));
      say(first, moment(entry.first_us));
      say(last, moment(entry.last_us));
    },
  );

/** @param {Context} context */
const drift = (context) =>
  listing(
    CAUSES.drift.title,
    ["Time", "Topic", "Kind", "Why", "Here", "There"],
    async (signal) =>
      (
        await Promise.all(
          (context.session.environments ?? []).map((/** @type {string} */ env) => get("drift", { env }, signal)),
        )
      ).flatMap(({ drift: found }) => found),
    (entry) => JSON.stringify([entry.at, entry.topic, entry.kind, entry.subject]),
    ([time, topic, kind, why, here, there], entry) => {
      say(time, local(entry.at));
      showTopic(topic, entry.topic, { at: "drift" });
      say(kind, entry.kind);
      say(why, entry.why);
      say(here, text(entry.here));
      say(there, text(entry.there));
    },
  );

const audit = () =>
  listing(
    CAUSES.audit.title,
    ["Time", "Who", "Action", "Target", "Outcome", "Detail", "Parameters"],
    async (signal) => (await get("audit", { limit: 100 }, signal)).entries,
    (entry) => entry.id,
    ([time, who, action, target, outcome, detail, parameters], entry) => {
      say(time, moment(entry.at * 1e6));
      say(who, entry.who);
      say(action, entry.action);
      say(target, entry.target);
      say(outcome, entry.outcome);
      say(detail, entry.detail);
      say(parameters, text(entry.parameters));
    },
  );

/** What a cause concerns now, or null where the page has its own way to show it. @param {string} kind @param {Context} context @param {URLSearchParams} query */
export const listOf = (kind, context, query) => {
  if (kind === "parked" || kind === "catalog") return parked(kind, context, query);
  if (kind === "webhooks") return webhooks();
  if (kind === "drift") return drift(context);
  if (kind === "audit") return audit();
  return null;
};
