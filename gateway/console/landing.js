/** The first view: this gateway's counters, its live topics, and the events that are parked. */
import { get } from "./api.js";
import { ago, h, keyed, line, moment, say, set, showStatus, span, table } from "./dom.js";

const TOPICS = 200;
const PARKED_EVERY_MS = 5000;
const HEADS = ["Topic", "State", "Version", "Age", "Sockets", "Watchers", "Behind"];
const PARKED_HEADS = ["Event", "Type", "Reason", "Waits on", "Parked", "Tries"];

/** Topic names as they are written: the store is asked for one that no tab here holds. */
const NAME = /^([a-z][a-z0-9_-]*\/)?[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~@-]{1,128}$/;

const TROUBLE = ["NACKED", "BEHIND", "STALE"];

/** @param {string} name */
export const link = (name) => `#/topics/${encodeURIComponent(name)}`;

/** @param {{within_s: number | null, beyond_s: number} | null} found */
const bound = (found) =>
  found == null ? "none yet" : found.within_s == null ? `> ${span(found.beyond_s)}` : `≤ ${span(found.within_s)}`;

/** @param {any} counters @returns {[string, string, string, string?][]} label, value, explanation, tone */
const figures = (counters) => {
  const { tabs } = counters;
  return [
    ["Sockets", String(counters.sockets), "Open WebSockets of this gateway."],
    ["Topics", String(counters.topics), "Topics that a tab or another reader holds here."],
    ["Tabs behind", String(tabs.BEHIND), "Subscriptions that do not show the newest version, or have not said so in time.", tabs.BEHIND ? "warn" : ""],
    ["Tabs refusing", String(tabs.NACKED), "Subscriptions whose page could not use the newest version.", tabs.NACKED ? "bad" : ""],
    ["Probe age", counters.probe_age_s == null ? "never" : span(counters.probe_age_s), "Since a canary last came back through the store's publish path."],
    ["Publish to ack, p50", bound(counters.publish_to_acked.p50), "Half of all acks since this gateway started came within this time."],
    ["Publish to ack, p99", bound(counters.publish_to_acked.p99), "99 of 100 acks since this gateway started came within this time."],
    ["Deliveries", counters.deliveries.toLocaleString(), "Snapshots and patches written to sockets since the start."],
    ["Replaced", counters.replaced.toLocaleString(), "Deliveries that a newer version replaced while a slow socket did not drain."],
    ["Nacks", counters.nacks.toLocaleString(), "Versions that pages said they could not use, since the start."],
  ];
};

/** @param {HTMLElement} root */
export const landing = (root) => {
  const cells = h("dl", { class: "figures", "aria-label": "Counters of this gateway" });
  const search = /** @type {HTMLInputElement} */ (
    h("input", { type: "search", id: "search", placeholder: "Search topics, or write a whole name ( / )", autocomplete: "off", spellcheck: "false", "aria-label": "Search topics" })
  );
  const trouble = /** @type {HTMLInputElement} */ (h("input", { type: "checkbox", id: "trouble" }));
  const found = h("p", { class: "quiet", role: "status" });
  const opens = h("p", { hidden: true });
  const topics = table("Live topics of this gateway", HEADS);
  const first = h("button", { type: "button", class: "small", onclick: () => turn("") }, "First page");
  const next = h("button", { type: "button", class: "small" }, "Next page");
  const parked = h("div", { class: "stack" });
  let after = "";
  let parkedAt = 0;

  const turn = (/** @type {string} */ to) => {
    after = to;
    changed();
  };
  let changed = () => {};
  const restart = () => turn("");
  search.addEventListener("input", restart);
  trouble.addEventListener("change", restart);
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const only = topics.body.querySelector("a");
    if (NAME.test(search.value.trim())) location.hash = link(search.value.trim());
    else if (only) location.hash = only.hash;
  });

  root.replaceChildren(
    h("h1", { class: "unseen" }, "All topics"),
    cells,
    h(
      "section",
      { class: "card", "aria-labelledby": "topics-head" },
      h("h2", { id: "topics-head" }, "Live topics"),
      h("div", { class: "tools" }, search, h("label", {}, trouble, " Only with trouble")),
      found,
      opens,
      topics.element,
      h("div", { class: "tools" }, first, next),
    ),
    h("section", { class: "card", "aria-labelledby": "parked-head" }, h("h2", { id: "parked-head" }, "Parked events"), parked),
  );

  const showCounters = (/** @type {any} */ counters) =>
    keyed(
      cells,
      figures(counters),
      ([label]) => label,
      ([label]) => h("div", {}, h("dt", {}, label), h("dd")),
      (element, [, value, title, tone]) => {
        set(element, "title", title);
        set(element, "data-tone", tone || null);
        say(element.lastElementChild, value);
      },
    );

  const showTopics = (/** @type {any} */ answer) => {
    const text = `${answer.matching.toLocaleString()} of ${answer.total.toLocaleString()} live topics`;
    say(found, answer.matching > answer.topics.length ? `${text}; ${answer.topics.length} on this page` : text);
    const wanted = search.value.trim();
    const isName = NAME.test(wanted) && !answer.topics.some((/** @type {any} */ topic) => topic.name === wanted);
    opens.hidden = !isName;
    if (isName) opens.replaceChildren("No tab here holds it: ", h("a", { href: link(wanted) }, `see what the store has of ${wanted}`), ".");
    keyed(
      topics.body,
      answer.topics,
      (/** @type {any} */ topic) => topic.name,
      (topic) => {
        const row = line(HEADS);
        row.children[0].append(h("a", { href: link(topic.name) }, topic.name));
        row.children[1].append(h("span"));
        return row;
      },
      (row, topic) => {
        const [, state, version, age, sockets, watchers, behind] = row.children;
        const bad = TROUBLE.filter((name) => topic.tabs[name]).map((name) => `${topic.tabs[name]} ${name.toLowerCase()}`);
        showStatus(state.firstElementChild, topic.status);
        say(version, topic.version || "none");
        say(age, topic.version ? ago(topic.age_s) : "");
        say(sockets, topic.sockets);
        say(watchers, topic.watchers);
        say(behind, bad.join(", ") || "0");
      },
    );
    topics.element.hidden = !answer.topics.length;
    first.hidden = !after;
    next.hidden = !answer.next;
    next.onclick = () => turn(answer.next);
  };

  const showParked = (/** @type {any} */ answer) => {
    if (!answer.listed) {
      parked.replaceChildren(h("p", { class: "quiet" }, "This process takes no webhooks; a process that does lists them."));
      return;
    }
    keyed(
      parked,
      answer.environments,
      (/** @type {any} */ environment) => environment.env,
      () => {
        const { element, body } = table("Parked events", PARKED_HEADS);
        return Object.assign(h("div", { class: "stack" }, h("p", { class: "quiet" }), element), { list: body, scroll: element });
      },
      (element, environment) => {
        const { env, total } = environment;
        const count = total > environment.parked.length ? `${total}, the ${environment.parked.length} longest parked shown` : total;
        say(element.firstElementChild, total ? `${env}: ${count}. Kept, and tried again when what they wait on is there.` : `${env}: none`);
        element.scroll.hidden = !total;
        keyed(
          element.list,
          environment.parked,
          (/** @type {any} */ event) => event.event_id,
          () => line(PARKED_HEADS),
          (row, event) => {
            const [id, type, reason, waits, at, tries] = row.children;
            if (!event.topic) say(id, event.event_id);
            else if (id.textContent !== event.event_id) id.replaceChildren(h("a", { href: link(event.topic) }, event.event_id));
            say(type, event.type);
            say(reason, event.reason);
            say(waits, event.waits_on.join(", "));
            say(at, moment(event.parked_us));
            say(tries, event.attempts);
          },
        );
      },
    );
  };

  return {
    focusSearch: () => search.focus(),
    /** Called when what is asked for has changed, so that it is asked for at once. @param {() => void} soon */
    onChange: (soon) => (changed = soon),
    /** @param {AbortSignal} signal */
    poll: async (signal) => {
      const query = { search: search.value.trim(), only: trouble.checked ? "trouble" : "", after, limit: TOPICS };
      const isDue = Date.now() - parkedAt >= PARKED_EVERY_MS;
      const [counters, list, events] = await Promise.all([
        get("counters", {}, signal),
        get("topics", query, signal),
        isDue ? get("parked", {}, signal) : null,
      ]);
      showCounters(counters);
      showTopics(list);
      if (events) {
        parkedAt = Date.now();
        showParked(events);
      }
      return counters;
    },
  };
};
