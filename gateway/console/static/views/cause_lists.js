/** The tables of a cause's page: everything that it affects now, each row with a link to its topic. */
import { retry } from "../actions.js";
import { get } from "../api.js";
import { causeOfParked, CAUSES } from "../model/causes.js";
import { count, local, moment, text } from "../model/format.js";
import { toTopic } from "../model/links.js";
import { button, h, keyed, line, setAttribute, setText, table } from "../ui/dom.js";

/** @typedef {import("../app.js").Context} Context */

/** Interval of polls for the report on the shadow, which reads every tenant. */
const SHADOW_EVERY_MS = 15_000;

/** Shows a topic as a link to its page. @param {Element} cell @param {string | undefined} topic @param {Record<string, any>} query */
const showTopic = (cell, topic, query) => {
  if (cell.textContent === (topic || "not known")) return;
  cell.replaceChildren(topic ? h("a", { href: toTopic(topic, query) }, topic) : "not known");
};

/**
 * A table with its request, and the function that fills its rows.
 * @param {string} caption @param {string[]} heads
 * @param {(signal: AbortSignal) => Promise<any[]>} ask
 * @param {(item: any) => string} key
 * @param {(cells: HTMLCollection, item: any, row: HTMLElement) => void} fill
 * @param {number} [every_ms] least time between two requests
 */
const listing = (caption, heads, ask, key, fill, every_ms = 0) => {
  const { element, body } = table(caption, heads);
  const none = h("p", { class: "quiet", role: "status", hidden: true }, "None now.");
  element.hidden = true;
  let askedAt = 0;
  return {
    elements: [none, element],
    /** @param {AbortSignal} signal */
    poll: async (signal) => {
      if (Date.now() - askedAt < every_ms) return;
      const items = await ask(signal);
      askedAt = Date.now();
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

/** Marks the row named in the link. @param {HTMLElement} row @param {string} id @param {URLSearchParams} query */
const mark = (row, id, query) => setAttribute(row, "class", id === query.get("event") ? "found" : null);

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
      setText(id, event.event_id);
      setText(env, event.env);
      setText(type, event.type);
      showTopic(topic, event.topic, { at: "events", event: event.event_id });
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

/** @param {URLSearchParams} query */
const items = (query) =>
  listing(
    CAUSES.items.title,
    ["Queue", "Environment", "Item", "Reason", "Tries"],
    async (signal) =>
      (await get("parked", { env: query.get("env") }, signal)).environments.flatMap(
        (/** @type {any} */ each) => each.items ?? [],
      ),
    (item) => `${item.env} ${item.queue} ${item.item}`,
    ([queue, env, name, reason, tries], item) => {
      setText(queue, item.queue);
      setText(env, item.env);
      setText(name, item.item);
      setText(reason, item.reason);
      setText(tries, item.attempts);
    },
  );

const webhooks = () =>
  listing(
    CAUSES.webhooks.title,
    ["Code", "Provider", "What was said", "Times", "First", "Last"],
    async (signal) => (await get("refusals", {}, signal)).webhooks,
    (entry) => `${entry.provider} ${entry.code}`,
    ([code, provider, detail, times, first, last], entry) => {
      setText(code, entry.code);
      setText(provider, entry.provider);
      setText(detail, entry.detail);
      setText(times, count(entry.count));
      setText(first, moment(entry.first_us));
      setText(last, moment(entry.last_us));
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
      setText(time, local(entry.at));
      showTopic(topic, entry.topic, { at: "drift" });
      setText(kind, entry.kind);
      setText(why, entry.why);
      setText(here, text(entry.here));
      setText(there, text(entry.there));
    },
  );

/** @param {Context} context @param {URLSearchParams} query */
const shadow = (context, query) =>
  listing(
    CAUSES.shadow.title,
    ["Compared", "Topic", "Plan", "Field", "Here", "There"],
    async (signal) => {
      const wanted = query.get("env");
      const envs = wanted ? [wanted] : (context.session.environments ?? []);
      const answers = await Promise.all(
        envs.map((/** @type {string} */ env) => get("shadow", { env, limit: 200 }, signal)),
      );
      return answers.flatMap(({ examples = [] }) =>
        examples.flatMap((/** @type {any} */ example) =>
          example.differences.map((/** @type {any} */ difference) => ({ ...example, ...difference })),
        ),
      );
    },
    ({ topic, field }) => `${topic} ${field}`,
    ([at, topic, plan, field, here, there], entry) => {
      setText(at, local(entry.compared_at));
      showTopic(topic, entry.topic, { at: "shadow" });
      setText(plan, entry.plan);
      setText(field, entry.field);
      setText(here, text(entry.here));
      setText(there, text(entry.there));
    },
    SHADOW_EVERY_MS,
  );

const audit = () =>
  listing(
    CAUSES.audit.title,
    ["Time", "Who", "Action", "Target", "Outcome", "Detail", "Parameters"],
    async (signal) => (await get("audit", { limit: 100 }, signal)).entries,
    (entry) => entry.id,
    ([time, who, action, target, outcome, detail, parameters], entry) => {
      setText(time, moment(entry.at * 1e6));
      setText(who, entry.who);
      setText(action, entry.action);
      setText(target, entry.target);
      setText(outcome, entry.outcome);
      setText(detail, entry.detail);
      setText(parameters, text(entry.parameters));
    },
  );

/** The table of what a cause affects now, or null if the page shows it in another way. @param {string} kind @param {Context} context @param {URLSearchParams} query */
export const listOf = (kind, context, query) => {
  if (kind === "parked" || kind === "catalog") return parked(kind, context, query);
  if (kind === "items") return items(query);
  if (kind === "webhooks") return webhooks();
  if (kind === "drift") return drift(context);
  if (kind === "shadow") return shadow(context, query);
  if (kind === "audit") return audit();
  return null;
};
