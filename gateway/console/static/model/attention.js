/** What needs attention, the worst first, from reports and polls. Each item links to an explanation. Pure. */
import { causeOfParked, CAUSES } from "./causes.js";
import { plural, us } from "./format.js";
import { toCause, toLanding, toTopic } from "./links.js";
import { TROUBLE, worst } from "./status.js";
import { reasonOf } from "./topic_model.js";

/**
 * @typedef {object} Item
 * @property {string} key
 * @property {"red" | "amber"} severity
 * @property {string} title
 * @property {string} why
 * @property {string} link
 * @property {number} [at] microseconds since 1970
 */

/** Maximum topics listed; the others are counted. */
const TOPICS_LISTED = 8;
/** Maximum groups listed of each kind. */
const GROUPS_LISTED = 6;

const SEVERITY = { NACKED: "red", BEHIND: "amber", STALE: "amber" };

/** Gateways in trouble. @param {any[]} gateways @returns {Item[]} */
export const ofGateways = (gateways) =>
  gateways
    .filter(({ isSilent, report }) => isSilent || (report && (!report.fresh || report.draining)))
    .map(({ name, isSilent, report }) => ({
      key: `gateway ${name}`,
      severity: isSilent || !report?.draining ? "red" : "amber",
      title: isSilent
        ? `Gateway ${name} is silent`
        : report.draining
          ? `Gateway ${name} is stopping`
          : `Gateway ${name} is deaf`,
      why: isSilent
        ? "It has not reported for 3 s or more: what its tabs show is not known."
        : report.draining
          ? "It is closing its sockets; its tabs go to other gateways."
          : `The bus is not proved to deliver to it. Its ${plural(report.sockets ?? 0, "socket")} show their state as stale.`,
      link: toCause("gateway", { name }),
    }));

/** The topics in trouble of all gateways: status, counts, gateways. @param {any[]} reports */
const troubled = (reports) => {
  /** @type {Map<string, {name: string, counts: Record<string, number>, gateways: number}>} */
  const found = new Map();
  for (const report of reports) {
    for (const [name, { tabs = {} }] of Object.entries(/** @type {Record<string, any>} */ (report.trouble ?? {}))) {
      const topic = found.get(name) ?? { name, counts: {}, gateways: 0 };
      topic.gateways++;
      for (const [status, count] of Object.entries(tabs))
        topic.counts[status] = (topic.counts[status] ?? 0) + Number(count);
      found.set(name, topic);
    }
  }
  return [...found.values()];
};

/** Topics with tabs in trouble. @param {any[]} reports @returns {Item[]} */
export const ofTabs = (reports) => {
  const topics = troubled(reports);
  const rank = (/** @type {any} */ topic) => TROUBLE.indexOf(/** @type {any} */ (worst(topic.counts)));
  topics.sort((one, other) => rank(one) - rank(other) || (one.name < other.name ? -1 : 1));
  const items = topics.slice(0, TOPICS_LISTED).map(({ name, counts }) => {
    const status = /** @type {keyof SEVERITY} */ (worst(counts));
    const bad = TROUBLE.filter((each) => counts[each]).map((each) => `${counts[each]} ${each}`);
    return {
      key: `tabs ${name}`,
      severity: /** @type {"red" | "amber"} */ (SEVERITY[status] ?? "amber"),
      title: `${name}: ${plural(counts[status], "tab")} ${status}`,
      why: `${CAUSES[status]?.means ?? ""} Here: ${bad.join(", ")}.`,
      link: toTopic(name, { at: "tabs" }),
    };
  });
  const unlisted = reports.reduce(
    (sum, { trouble = {}, trouble_total = 0 }) => sum + Math.max(0, trouble_total - Object.keys(trouble).length),
    0,
  );
  const more = topics.length - items.length + unlisted;
  if (more)
    items.push({
      key: "tabs more",
      severity: "amber",
      title: `${plural(more, "more topic")} with tabs in trouble`,
      why: "The list of topics shows them all.",
      link: toLanding({ only: "trouble" }),
    });
  return items;
};

/** @template T @param {T[]} items @param {(item: T) => string} key @returns {[string, T[]][]} */
const grouped = (items, key) => {
  const groups = /** @type {Map<string, T[]>} */ (new Map());
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return [...groups].sort(([, one], [, other]) => other.length - one.length);
};

/** The link to an event's explanation: on its topic's page, or on the page of its kind if it has no topic. @param {any} event @param {string} kind */
const whereIs = (event, kind) =>
  event.topic
    ? toTopic(event.topic, { at: "events", event: event.event_id })
    : toCause(kind, { event: event.event_id });

/** Parked events, grouped by cause and reason. @param {any} answer of `parked` @returns {Item[]} */
export const ofParked = (answer) => {
  if (!answer?.listed) return [];
  return answer.environments.flatMap((/** @type {any} */ { env, parked, total }) =>
    grouped(parked, (event) => `${causeOfParked(event)}\n${event.reason}`)
      .slice(0, GROUPS_LISTED)
      .map(([key, events]) => {
        const [first] = events;
        const kind = causeOfParked(first);
        const isOne = events.length === 1;
        const more = total > parked.length ? ` The ${parked.length} longest parked of ${total} are looked at.` : "";
        const whose = isOne && first.topic ? ` of ${first.topic}` : "";
        return {
          key: `parked ${env} ${key}`,
          severity: /** @type {const} */ ("red"),
          title:
            kind === "catalog"
              ? `Catalog: ${first.reason}`
              : `${plural(events.length, "parked event")}${whose} (${env})`,
          why:
            kind === "catalog"
              ? `${plural(events.length, "event")}${whose} ${isOne ? "waits" : "wait"} on the catalog.${more}`
              : `${first.reason}.${more}`,
          link: isOne ? whereIs(first, kind) : toCause(kind, { env }),
          at: first.parked_us,
        };
      }),
  );
};

/** Items of the worker's queues that failed until they were parked, by queue. @param {any} answer of `parked` @returns {Item[]} */
export const ofParkedItems = (answer) =>
  (answer?.environments ?? []).flatMap((/** @type {any} */ { env, items = [] }) =>
    grouped(items, (/** @type {any} */ item) => item.queue).map(([queue, [first, ...others]]) => ({
      key: `items ${env} ${queue}`,
      severity: /** @type {const} */ ("red"),
      title: queue.startsWith("webhooks:")
        ? `${plural(others.length + 1, "dead letter")} of the endpoint ${queue.slice("webhooks:".length)} (${env})`
        : `${plural(others.length + 1, "parked item")} of ${queue} (${env})`,
      why: `${first.item}: ${first.reason}`,
      link: toCause("items", { env }),
    })),
  );

/**
 * Recent differences from the provider, grouped by topic.
 * @param {any} answer of `drift`, one environment
 * @param {number} now_us
 * @param {number} within_us
 * @returns {Item[]}
 */
export const ofDrift = (answer, now_us, within_us) => {
  if (!answer?.listed) return [];
  // What differs from the other system is in the report on the shadow.
  const fresh = answer.drift.filter(
    (/** @type {any} */ entry) => entry.kind !== "shadow" && now_us - us(entry.at) < within_us,
  );
  return grouped(fresh, (/** @type {any} */ entry) => `${entry.topic}`)
    .slice(0, GROUPS_LISTED)
    .map(([topic, entries]) => ({
      key: `drift ${topic}`,
      severity: /** @type {const} */ ("amber"),
      ...(entries[0].kind == "second_customer"
        ? {
            title: `${topic}: a second customer pays for it`,
            why: `${entries[0].subject} is of ${entries[0].there?.customer_id}. It only adds to the plan.`,
          }
        : entries[0].kind == "money"
          ? {
              title: entries[0].there ? `${topic}: billed otherwise than quoted` : `${topic}: quoted and not billed`,
              why: `${entries[0].why}, by ${entries[0].subject}. Nothing is repaired: correct it at the provider.`,
            }
          : {
              title: `${topic}: ${plural(entries.length, "difference")} from the provider`,
              why: `${entries[0].kind}: ${entries[0].why ?? "found by comparing"}. Repaired when it was found.`,
            }),
      link: toTopic(topic, { at: "drift" }),
      at: us(entries[0].at),
    }));
};

/** What differs from the system in whose shadow billing runs, and its failures. @param {any[]} reports of `shadow` @returns {Item[]} */
export const ofShadow = (reports) =>
  reports.flatMap(({ env, compared, differing, problem }) => [
    ...(differing
      ? [
          {
            key: `shadow ${env}`,
            severity: /** @type {const} */ ("amber"),
            title: `Shadow (${env}): ${differing} of ${plural(compared, "tenant")} ${differing === 1 ? "differs" : "differ"}`,
            why: "What billing computes is not what the other system answers. Nobody sees it until they are switched.",
            link: toCause("shadow", { env }),
          },
        ]
      : []),
    ...(problem
      ? [
          {
            key: `shadow problem ${env}`,
            severity: /** @type {const} */ ("amber"),
            title: `The other system failed for ${problem.topic}`,
            why: `${problem.reason}. It is asked again after a pause.`,
            link: toCause("shadow", { env }),
            at: us(problem.at),
          },
        ]
      : []),
  ]);

/** Webhooks that were rejected since `since_us`. @param {any} answer of `refusals` @param {number} since_us @returns {Item[]} */
export const ofRefusals = (answer, since_us) =>
  (answer?.webhooks ?? [])
    .filter((/** @type {any} */ entry) => entry.last_us >= since_us)
    .map((/** @type {any} */ { provider, code, count, detail, last_us }) => ({
      key: `webhook ${provider} ${code}`,
      severity: /** @type {const} */ ("red"),
      title: `${plural(count, "webhook")} of ${provider} rejected: ${code}`,
      why: detail || CAUSES.webhooks.means,
      link: toCause("webhooks"),
      at: last_us,
    }));

/**
 * The problems of one topic; each item links to its section.
 * @param {string} name
 * @param {import("./topic_model.js").Model} model
 * @param {{parked: any[], newest: any, differing: number, isUnseen?: boolean}} known
 * @returns {Item[]}
 */
export const ofTopic = (name, model, { parked, newest, differing, isUnseen }) => {
  const to = (/** @type {string} */ at) => toTopic(name, { at });
  /** @type {Item[]} */
  const items = [];
  if (!model.committed.version && !isUnseen)
    items.push({
      key: "stateless",
      severity: "amber",
      title: "It has no state",
      why: "Nothing was ever committed to it, or it has expired: a tab shows what its page shows to a tenant without a plan. If it should have one, its name or environment is written differently here and at the provider, or its events are parked.",
      link: to("chain"),
    });
  const status = worst(model.counts);
  if (status && TROUBLE.includes(status)) {
    const one = model.tabs.find((tab) => tab.status === status);
    items.push({
      key: "tabs",
      severity: /** @type {any} */ (SEVERITY)[status],
      title: `${plural(model.counts[status], "tab")} ${status}`,
      why: one ? reasonOf(one) : CAUSES[status].means,
      link: to("tabs"),
    });
  }
  for (const { gateway, why } of model.gateways.filter(({ status: word }) => word !== "SYNCED")) {
    items.push({
      key: `gateway ${gateway}`,
      severity: "red",
      title: `Gateway ${gateway} may not have the newest version`,
      why,
      link: to("chain"),
    });
  }
  for (const [reason, events] of grouped(parked, (event) => event.reason)) {
    items.push({
      key: `parked ${reason}`,
      severity: "red",
      title: `${plural(events.length, "event")} ${events.length === 1 ? "waits" : "wait"}: ${reason}`,
      why: CAUSES[causeOfParked(events[0])].means,
      link: to("events"),
      at: events[0].parked_us,
    });
  }
  // Not a problem: the provider's state was read after the event and includes it.
  if (newest && newest.outcome === "refused" && newest.reason !== "older than what the provider was asked for since") {
    items.push({
      key: "refused",
      severity: "amber",
      title: `The newest event was ignored: ${newest.reason || newest.type}`,
      why: CAUSES.refused.means,
      link: to("events"),
      at: newest.at,
    });
  }
  if (differing)
    items.push({
      key: "sides",
      severity: "amber",
      title: `${plural(differing, "difference")} between provider, store and tabs`,
      why: "The same plan is not the same everywhere: compare them side by side.",
      link: to("sides"),
    });
  return items.sort((one, other) => Number(other.severity === "red") - Number(one.severity === "red"));
};
