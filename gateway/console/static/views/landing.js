/** The first view: what needs attention, the counters and gateways, and all topics. */
import { get } from "../api.js";
import { ofDrift, ofGateways, ofParked, ofParkedItems, ofRefusals, ofShadow, ofTabs } from "../model/attention.js";
import { toCause } from "../model/links.js";
import { attentionList } from "../parts/attention_list.js";
import { figures } from "../parts/figures.js";
import { gatewayList } from "../parts/gateways.js";
import { shadowCard } from "../parts/shadow.js";
import { topicList } from "../parts/topics.js";
import { card, h } from "../ui/dom.js";

/** Interval of polls for data that is not in reports. */
const ASK_EVERY_MS = 2500;
/** Age beyond which drift and refusals are not listed. */
const RECENT_US = 24 * 3600 * 1e6;

/**
 * The landing page: what needs attention, the topics, the gateways and their figures.
 * @param {HTMLElement} root
 * @param {import("../app.js").Context} context
 * @param {import("../router.js").Place} place
 */
export const landing = (root, context, place) => {
  const charts = figures();
  const gateways = gatewayList();
  const shadow = shadowCard();
  const topics = topicList(place.query, context.soon);
  const attention = attentionList(
    "What needs attention",
    "Nothing: every gateway hears every change, every tab shows the newest version, and no event waits.",
  );
  const asked = {
    at: 0,
    parked: /** @type {any} */ (null),
    drift: /** @type {any[]} */ ([]),
    refusals: /** @type {any} */ (null),
    shadow: /** @type {any[]} */ ([]),
  };

  root.replaceChildren(
    h("h1", { class: "unseen" }, "Console"),
    h(
      "div",
      { class: "columns uneven" },
      h(
        "div",
        { class: "stack" },
        card("attention", "Needs attention", ...attention.elements),
        card("topics", "Topics", topics.element),
      ),
      h("div", { class: "stack" }, card("gateways", "Gateways", gateways.element), shadow.element, charts.element),
    ),
    h("p", { class: "quiet" }, h("a", { href: toCause("audit") }, "Audit log"), " · press ? for the keys"),
  );

  const showAttention = (/** @type {any[]} */ known) => {
    const now_us = Date.now() * 1000;
    const reports = known.filter(({ report, isSilent }) => report && !isSilent).map(({ report }) => report);
    const items = [
      ...ofGateways(known),
      ...ofTabs(reports),
      ...ofParked(asked.parked),
      ...ofParkedItems(asked.parked),
      ...ofRefusals(asked.refusals, now_us - RECENT_US),
      ...ofShadow(asked.shadow),
      ...asked.drift.flatMap((answer) => ofDrift(answer, now_us, RECENT_US)),
    ].sort((one, other) => Number(other.severity === "red") - Number(one.severity === "red"));
    attention.show(items, known.length > 0 && asked.at > 0);
  };

  return {
    watches: [],
    lists: [topics.list],
    sections: ["attention", "topics", "gateways", "shadows"],
    focusSearch: topics.focus,
    onlyTrouble: () => topics.only("trouble"),
    /** Draws the reports. */
    draw: () => {
      const known = context.live.gateways();
      charts.show(context.history.samples());
      gateways.show(known);
      showAttention(known);
    },
    /** @param {AbortSignal} signal */
    poll: async (signal) => {
      if (Date.now() - asked.at >= ASK_EVERY_MS) {
        const envs = context.session.environments ?? [];
        const [parked, refusals, shadows, ...drift] = await Promise.all([
          get("parked", {}, signal),
          get("refusals", {}, signal),
          shadow.poll(envs, signal),
          ...envs.map((/** @type {string} */ env) => get("drift", { env, limit: 20 }, signal)),
        ]);
        Object.assign(asked, { parked, refusals, shadow: shadows, drift, at: Date.now() });
      }
      await topics.poll(signal);
    },
  };
};
