/** One topic: the chain from what was committed to every tab, its versions, its snapshot and its events. */
import { get } from "./api.js";
import { ago, copyButton, EXPLAINED, h, keyed, line, moment, say, set, showStatus, span, table } from "./dom.js";
import { timeline } from "./timeline.js";

const TABS = 200;
const EVENTS_EVERY_MS = 5000;
const TAB_HEADS = ["State", "Subject", "Client", "Session", "Sent", "Acked", "Owed for", "Waiting", "Open for"];
const EVENT_HEADS = ["Time", "Outcome", "Event", "Type", "Reason"];
const BAD_OUTCOMES = new Set(["refused", "parked"]);

const CAUSE = { event_type: "event", event_id: "event id", source: "source", occurred_at: "occurred", received_at: "received" };

/** @param {string} instant RFC 3339 */
const local = (instant) => {
  const ms = Date.parse(instant);
  return Number.isNaN(ms) ? instant : moment(ms * 1000);
};

/** @param {any} committed @returns {[string, string][]} */
const origin = ({ version, cause, age_s }) => {
  if (!version) return [["version", "none: nothing was ever committed, or it has expired"]];
  const told = Object.entries(cause).map(([name, value]) => /** @type {[string, string]} */ ([
    /** @type {any} */ (CAUSE)[name] ?? name,
    name.endsWith("_at") ? local(value) : value,
  ]));
  return [["version", String(version)], ...told, ["committed", moment(version)], ["age", ago(age_s)]];
};

/** @param {any} here @returns {[string, string][]} */
const gatewayFacts = (here) =>
  here
    ? [
        ["version", here.version ? String(here.version) : "none"],
        ["sockets", String(here.sockets)],
        ["event streams and waits", String(here.watchers)],
      ]
    : [];

/** @param {Element} list @param {[string, string][]} facts */
const showFacts = (list, facts) =>
  keyed(
    list,
    facts,
    ([name]) => name,
    ([name]) => h("div", {}, h("dt", {}, name), h("dd")),
    (element, [, value]) => say(element.lastElementChild, value),
  );

/** @param {HTMLElement} root @param {string} name */
export const topicView = (root, name) => {
  let latest = /** @type {any} */ (null);
  let after = 0;
  let eventsAt = 0;
  let changed = () => {};

  const station = (/** @type {string} */ id, /** @type {string} */ title) => {
    const pill = h("span", { class: "pill" });
    const why = h("p", { class: "quiet" });
    const facts = h("dl", { class: "facts" });
    return { pill, why, facts, element: h("li", { id, class: "card" }, h("h2", {}, title, " ", pill), why, facts) };
  };
  const store = station("store", "Store");
  const here = station("here", "This gateway");
  const tabsBox = station("tabs-sum", "Tabs here");
  const tabs = table("Tabs of this gateway that hold the topic", TAB_HEADS);
  const noTabs = h("p", { class: "quiet" }, "No tab of this gateway holds it.");
  const first = h("button", { type: "button", class: "small", onclick: () => ((after = 0), changed()) }, "First page");
  const next = h("button", { type: "button", class: "small" }, "Next page");
  const state = h("pre", { tabindex: "0", "aria-label": "State of the newest version" });
  const events = table("Events of this topic", EVENT_HEADS);
  const noEvents = h("p", { class: "quiet" });
  const versions = timeline(name);
  const curl = () => `curl -H "Authorization: Bearer $TOKEN" '${location.origin}/v1/state/${name}'`;

  root.replaceChildren(
    h("p", {}, h("a", { href: "#/" }, "All topics")),
    h("div", { class: "tools heading" }, h("h1", {}, name), copyButton("Copy as curl", curl), copyButton("Copy state as JSON", () => latest?.committed.state ?? "null")),
    h("ol", { class: "chain", "aria-label": "From the cause to the tabs" }, store.element, here.element, tabsBox.element),
    h(
      "section",
      { class: "card", "aria-labelledby": "tabs-head" },
      h("h2", { id: "tabs-head" }, "Tabs"),
      noTabs,
      tabs.element,
      h("div", { class: "tools" }, first, next),
      h(
        "details",
        {},
        h("summary", {}, "What the states mean"),
        h("dl", { class: "facts" }, ...Object.entries(EXPLAINED).map(([status, text]) => h("div", {}, h("dt", {}, h("span", { class: "pill", "data-status": status }, status)), h("dd", {}, text)))),
      ),
    ),
    versions.element,
    h("section", { class: "card", "aria-labelledby": "events-head" }, h("h2", { id: "events-head" }, "Events"), noEvents, events.element),
    h("section", { class: "card", "aria-labelledby": "state-head" }, h("h2", { id: "state-head" }, "State"), state),
  );

  const showChain = (/** @type {any} */ answer) => {
    const { committed, counts } = answer;
    set(store.pill, "class", "pill");
    set(store.pill, "data-status", "NONE");
    say(store.pill, committed.version ? "newest" : "no state");
    say(store.why, "What was committed last, and why. Every reader ends up here.");
    showFacts(store.facts, origin(committed));
    if (answer.here) {
      showStatus(here.pill, answer.here.status, answer.here.why);
      say(here.why, answer.here.why);
    } else {
      set(here.pill, "data-status", "NONE");
      say(here.pill, "not live");
      say(here.why, "Nobody holds this topic here. Other gateways may have tabs that do; this page does not see them.");
    }
    showFacts(here.facts, gatewayFacts(answer.here));
    const found = Object.entries(counts).filter(([, count]) => count);
    const worst = /** @type {any} */ (found[0]?.[0] ?? null);
    showStatus(tabsBox.pill, worst);
    say(tabsBox.why, worst ? EXPLAINED[/** @type {keyof EXPLAINED} */ (worst)] : "No tab of this gateway holds it.");
    const uncounted = answer.here?.uncounted ? [["not looked at", String(answer.here.uncounted)]] : [];
    showFacts(tabsBox.facts, /** @type {[string, string][]} */ ([...found.map(([status, count]) => [status, String(count)]), ...uncounted]));
  };

  const showTabs = (/** @type {any} */ answer) => {
    noTabs.hidden = answer.tabs.length > 0;
    tabs.element.hidden = !answer.tabs.length;
    first.hidden = !after;
    next.hidden = answer.next == null;
    next.onclick = () => ((after = answer.next), changed());
    keyed(
      tabs.body,
      answer.tabs,
      (/** @type {any} */ tab) => tab.session,
      () => {
        const row = line(TAB_HEADS);
        row.children[0].append(h("span"), h("span", { class: "why" }));
        return row;
      },
      (row, tab) => {
        const [status, sub, client, session, sent, acked, owed, waiting, since] = row.children;
        const why = tab.status === "NACKED" && tab.reason ? `${tab.why} It said: ${tab.reason}` : tab.why;
        showStatus(status.firstElementChild, tab.status, why);
        say(status.lastElementChild, tab.status === "SYNCED" ? "" : why);
        say(sub, tab.sub);
        say(client, tab.client);
        say(session, tab.session);
        say(sent, tab.sent || "none");
        say(acked, tab.acked || "none");
        say(owed, tab.owed_s == null ? "" : span(tab.owed_s));
        say(waiting, tab.blocked ? `blocked, ${tab.buffered_bytes.toLocaleString()} bytes` : "");
        say(since, span(Math.floor(Math.max(1, answer.at - tab.since))).replace(".0", ""));
        set(since, "title", `since ${moment(tab.since * 1e6)}`);
      },
    );
  };

  const showEvents = (/** @type {any} */ answer) => {
    say(noEvents, answer.events.length ? `The newest ${answer.events.length} events that named this topic.` : "No event of a provider is kept for it.");
    events.element.hidden = !answer.events.length;
    keyed(
      events.body,
      answer.events,
      (/** @type {any} */ event) => `${event.event_id} ${event.at} ${event.outcome}`,
      () => {
        const row = line(EVENT_HEADS);
        row.children[1].append(h("span", { class: "pill" }));
        return row;
      },
      (row, event) => {
        const [time, outcome, id, type, reason] = row.children;
        say(time, event.at ? moment(event.at) : "");
        say(outcome.firstElementChild, event.outcome);
        set(outcome.firstElementChild, "data-status", BAD_OUTCOMES.has(event.outcome) ? "BEHIND" : "NONE");
        say(id, event.event_id);
        say(type, event.type);
        say(reason, event.reason);
      },
    );
  };

  return {
    /** @param {() => void} soon */
    onChange: (soon) => (changed = soon),
    /** @param {AbortSignal} signal */
    poll: async (signal) => {
      const path = encodeURIComponent(name);
      const isDue = Date.now() - eventsAt >= EVENTS_EVERY_MS;
      const [counters, answer, happened] = await Promise.all([
        get("counters", {}, signal),
        get(`topics/${path}`, { after: after || null, limit: TABS }, signal),
        isDue ? get(`events/${path}`, {}, signal) : null,
      ]);
      const isNew = latest?.committed.version !== answer.committed.version;
      latest = answer;
      showChain(answer);
      showTabs(answer);
      say(state, answer.committed.state);
      if (happened) {
        eventsAt = Date.now();
        showEvents(happened);
      }
      if (isNew) {
        eventsAt = 0;
        await versions.load(signal);
      }
      return counters;
    },
  };
};
