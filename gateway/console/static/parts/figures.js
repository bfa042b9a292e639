/** The charts of the landing page, each for all gateways together. */
import { count, span } from "../model/format.js";
import { chart } from "../ui/chart.js";
import { h } from "../ui/dom.js";

/** @typedef {import("../model/history.js").Sample} Sample */

const QUANTILES = [
  { name: "p50", tone: "line-one" },
  { name: "p99", tone: "line-two" },
];

/** @type {(Parameters<typeof chart>[0] & {of: (sample: Sample) => (number | null)[]})[]} */
const CHARTS = [
  {
    title: "Webhook to acked",
    why: "From when the provider says it happened until tabs said that they show it: half of them, and 99 of 100, within this time. The last 60 s, the slowest gateway; upper bounds.",
    lines: QUANTILES,
    format: span,
    least: 0.1,
    of: ({ webhook50, webhook99 }) => [webhook50, webhook99],
  },
  {
    title: "Commit to acked",
    why: "From the commit until tabs said that they show it. The last 60 s, the slowest gateway; upper bounds.",
    lines: QUANTILES,
    format: span,
    least: 0.1,
    of: ({ commit50, commit99 }) => [commit50, commit99],
  },
  {
    title: "Publishes per second",
    why: "Publishes over HTTP and webhooks that were taken.",
    lines: [{ name: "", tone: "line-one" }],
    format: (value) => count(value),
    least: 5,
    of: ({ publishes }) => [publishes],
  },
  {
    title: "Refusals per second",
    why: "Publishes, webhooks and sockets that were refused.",
    lines: [{ name: "", tone: "line-bad" }],
    format: (value) => count(value),
    least: 5,
    of: ({ refusals }) => [refusals],
  },
  {
    title: "Sockets",
    why: "Open WebSockets of all gateways.",
    lines: [{ name: "", tone: "line-one" }],
    format: (value) => count(value),
    least: 5,
    of: ({ sockets }) => [sockets],
  },
  {
    title: "Bus verified",
    why: "How long ago a canary last came back over the bus, at the gateway where it is the longest. Beyond two probe intervals a gateway calls itself stale.",
    lines: [{ name: "ago", tone: "line-good" }],
    format: (value) => span(value),
    least: 5,
    of: ({ bus }) => [bus],
  },
];

/** The charts of the landing page. */
export const figures = () => {
  const drawn = CHARTS.map((options) => ({ ...chart(options), of: options.of }));
  return {
    element: h(
      "section",
      { class: "charts", "aria-label": "Counters of all gateways" },
      ...drawn.map(({ element }) => element),
    ),
    /** @param {Sample[]} samples */
    show: (samples) => {
      for (const { show, of } of drawn) show(samples.map((sample) => ({ at: sample.at, values: of(sample) })));
    },
  };
};
