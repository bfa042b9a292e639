/** One topic: the chain from the event to every tab, its versions, events, comparison and actions. */
import { reconcile, revoke, simulate } from "../actions.js";
import { gateway, get } from "../api.js";
import { ofTopic } from "../model/attention.js";
import { ago } from "../model/format.js";
import { environmentOf, inPath, toTopic } from "../model/links.js";
import { EXPLAINED, worst } from "../model/status.js";
import { mergeReports } from "../model/topic_model.js";
import { readable } from "../model/topic_name.js";
import { attentionList } from "../parts/attention_list.js";
import { chain } from "../parts/chain.js";
import { comparison } from "../parts/comparison.js";
import { drift } from "../parts/drift.js";
import { events } from "../parts/events.js";
import { tenantShadow } from "../parts/shadow.js";
import { subscriptions } from "../parts/subscriptions.js";
import { tabList } from "../parts/tabs.js";
import { timeline } from "../parts/timeline.js";
import { upcoming } from "../parts/upcoming.js";
import { usageCard } from "../parts/usage/card.js";
import { parse } from "../router.js";
import { copyButton, curl } from "../ui/copy.js";
import { button, card, h, setText } from "../ui/dom.js";
import { pill, setTabStatus } from "../ui/pill.js";

const TABS = 100;
/** Interval of polls for data of the store and the provider. A new version polls at once. */
const ASK_EVERY_MS = 5000;

const SECTIONS = [
  ["chain", "Chain"],
  ["tabs", "Tabs"],
  ["timeline", "Timeline"],
  ["events", "Events"],
  ["sides", "Sides"],
  ["subscriptions", "Subscriptions"],
  ["usage", "Usage"],
  ["upcoming", "Scheduled"],
  ["drift", "Drift"],
  ["shadow", "Shadow"],
  ["snapshot", "Snapshot"],
];

/**
 * A topic's page.
 * @param {HTMLElement} root
 * @param {import("../app.js").Context} context
 * @param {import("../router.js").Place} place
 */
export const topicView = (root, context, { name, query }) => {
  const path = inPath(name);
  const state = pill();
  const links = chain();
  const tabs = tabList(context, name, context.soon);
  const noTabs = h("p", { class: "quiet", role: "status" }, "No tab is connected to it.");
  const versions = timeline(context, name, query);
  const happened = events(context, name, query);
  const compared = comparison(name);
  const owned = subscriptions(name);
  const used = usageCard(context, name);
  const coming = upcoming(context, name);
  const drifted = drift(name);
  const shadowed = tenantShadow(name);
  const snapshot = h("pre", { tabindex: "0", "aria-label": "State of the newest version" });
  const hidden = h("pre", { tabindex: "0", "aria-label": "Private part of the newest version" });
  const noPrivate = h("p", { class: "quiet" });
  const wrong = attentionList(
    "What is wrong with it",
    "Every tab shows the newest version, no event of it waits, and the newest was used.",
    ({ link }) => {
      jump(/** @type {string} */ (parse(link)?.query.get("at")));
      return true;
    },
  );
  const known = { parked: /** @type {any[]} */ ([]), newest: /** @type {any} */ (null), differing: 0, isUnseen: false };
  const elsewhere = h("p", { class: "explained", role: "status", hidden: true });
  /** @type {any} */
  let answer = null;
  let from = 0;
  let shownVersion = -1;
  let askedAt = 0;
  let wanted = query.get("at") ?? "";

  const stateUrl = `${gateway}/v1/state/${name}`;
  const fixture = async () => JSON.stringify(await get(`fixture/${path}`), null, 2);
  const actions = h(
    "div",
    { class: "tools", id: "actions", role: "toolbar", "aria-label": "Actions" },
    context.may(
      "reconcile",
      button("Reconcile…", () => void reconcile(context, name)),
    ),
    context.may(
      "simulate",
      button("Simulate…", () => void simulate(context, name)),
    ),
    context.may(
      "revoke",
      button("Revoke…", () => void revoke(context, name)),
    ),
    copyButton("Copy as curl", () => curl("GET", stateUrl, { key: "TOKEN" })),
    copyButton("Copy as test fixture", fixture),
  );

  const means = h(
    "details",
    {},
    h("summary", {}, "What the states mean"),
    h(
      "dl",
      { class: "facts" },
      ...Object.entries(EXPLAINED).map(([status, text]) =>
        h("div", {}, h("dt", {}, h("span", { class: "pill", "data-status": status }, status)), h("dd", {}, text)),
      ),
    ),
  );
  const jumps = Object.fromEntries(
    SECTIONS.map(([id, text]) => [
      id,
      h("button", { type: "button", class: "plain", hidden: id === "usage", onclick: () => jump(id) }, text),
    ]),
  );
  root.replaceChildren(
    h("p", {}, h("a", { href: "#/" }, "All topics")),
    h("div", { class: "tools heading" }, h("h1", { title: name }, readable(name), " ", state), actions),
    elsewhere,
    h(
      "nav",
      { class: "jumps", "aria-label": "Sections" },
      ...Object.values(jumps),
    ),
    card("findings", "What is wrong", ...wrong.elements),
    links.element,
    card("tabs", "Tabs", noTabs, tabs.list.element, means),
    versions.element,
    happened.element,
    compared.element,
    owned.element,
    used.element,
    h("div", { class: "columns" }, coming.element, drifted.element),
    shadowed.element,
    card(
      "snapshot",
      "Raw snapshot",
      h(
        "div",
        { class: "tools" },
        copyButton("Copy state", () => answer?.committed.state ?? "null"),
      ),
      snapshot,
      h("h3", {}, "Private part"),
      noPrivate,
      hidden,
    ),
  );

  const jump = (/** @type {string} */ id) => {
    const section = document.getElementById(id);
    section?.scrollIntoView({ block: "start" });
    section?.focus({ preventScroll: true });
  };

  const draw = () => {
    if (!answer) return;
    const model = mergeReports(answer, from, context.live.watched(name), context.live.gateways());
    links.show(model);
    tabs.show(model);
    noTabs.hidden = model.total > 0;
    setTabStatus(state, worst(model.counts));
    wrong.show(ofTopic(name, model, known), askedAt > 0);
    setText(snapshot, answer.committed.state);
    const newest = Math.max(0, ...[...context.live.watched(name).values()].map(({ version = 0 }) => version));
    if (newest > answer.committed.version) context.soon();
  };

  const showPrivate = (/** @type {any} */ shown) => {
    setText(
      noPrivate,
      shown.private_hidden
        ? "This login may not see it: its token has not the scope private."
        : shown.private
          ? ""
          : "There is none.",
    );
    noPrivate.hidden = !noPrivate.textContent;
    hidden.hidden = !shown.private;
    setText(hidden, shown.private);
  };

  /** Shows a hint if the tenant exists in another environment: a wrong webhook secret routes events there. @param {AbortSignal} signal */
  const lookElsewhere = async (signal) => {
    const [own, bare] = environmentOf(name);
    const others = (context.session.environments ?? []).filter((/** @type {string} */ env) => env !== own);
    const found = await Promise.all(
      others.map(async (/** @type {string} */ env) => {
        const topic = env === "live" ? bare : `${env}/${bare}`;
        return { env, topic, version: (await get(`snapshot/${inPath(topic)}`, {}, signal)).version };
      }),
    );
    const tenants = found.filter(({ version }) => version);
    elsewhere.hidden = !tenants.length;
    elsewhere.replaceChildren(
      ...tenants.flatMap(({ env, topic, version }) => [
        `Also known in ${env}: `,
        h("a", { href: toTopic(topic) }, topic),
        `, changed ${ago(Date.now() / 1000 - version / 1e6)}. Events signed with the secret of ${env} end there. `,
      ]),
    );
  };

  return {
    watches: [name],
    lists: [tabs.list, versions.list],
    get sections() {
      return SECTIONS.map(([id]) => id).filter((id) => !jumps[id].hidden);
    },
    compare: versions.compare,
    replay: versions.replay,
    focusActions: () => /** @type {HTMLElement} */ (actions.firstElementChild).focus(),
    draw,
    /** @param {AbortSignal} signal */
    poll: async (signal) => {
      const seen = tabs.seen();
      const start = Math.max(0, Math.min(seen.from, seen.to - TABS));
      answer = await get(`topics/${path}`, { after: start || null, limit: Math.max(TABS, seen.to - start) }, signal);
      from = start;
      draw();
      const isNew = shownVersion !== answer.committed.version;
      if (!isNew && Date.now() - askedAt < ASK_EVERY_MS) {
        // Usage changes without a version of the tenant's.
        if (!jumps.usage.hidden) await used.load(signal);
        return;
      }
      shownVersion = answer.committed.version;
      askedAt = Date.now();
      await Promise.all([
        versions.load(signal),
        happened.load(signal).then((found) => Object.assign(known, found)),
        owned.load(signal),
        used.load(signal).then((isThere) => (jumps.usage.hidden = !isThere)),
        coming.load(signal),
        drifted.load(signal),
        shadowed.load(signal).then((found) => (known.isUnseen = found.is_known && !found.is_seen)),
        get(`snapshot/${path}`, {}, signal).then(showPrivate),
        ...(isNew
          ? [compared.load(signal).then((differing) => (known.differing = differing)), lookElsewhere(signal)]
          : []),
      ]);
      draw();
      if (wanted && !query.get("event")) jump(wanted);
      wanted = "";
    },
  };
};
