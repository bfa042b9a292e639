/** The last two minutes of the gateways' reports, one sample per second, for the charts. */

/** Maximum number of samples. */
const KEPT = 120;

/** @typedef {{at: number, sockets: number | null, webhook50: number | null, webhook99: number | null, commit50: number | null, commit99: number | null, publishes: number | null, refusals: number | null, bus: number | null}} Sample */

const PUBLISHES = ["publishes", "webhooks"];
const REFUSALS = ["publish_refusals", "webhook_refusals", "refused"];

/** The sum of some counters of a report. @param {any} report @param {string[]} names @returns {number} */
const total = (report, names) => names.reduce((sum, name) => sum + (report.counters?.[name] ?? 0), 0);

/** The largest known value, or null. @param {(number | null | undefined)[]} values */
const largest = (values) =>
  values.reduce((most, value) => (value == null || (most != null && most >= value) ? most : value), null) ?? null;

/** The samples for the charts. */
export const history = () => {
  /** @type {Sample[]} */
  const samples = [];
  /** @type {Map<string, {started: number, publishes: number, refusals: number}>} the counters of the sample before */
  let before = new Map();

  return {
    samples: () => samples,
    /** Adds a sample. @param {any[]} reports the newest of each gateway @param {number} now seconds since 1970 */
    add: (reports, now) => {
      if (!reports.length) return;
      let publishes = 0;
      let refusals = 0;
      const counted = new Map();
      for (const report of reports) {
        const now_ = {
          started: report.started_at,
          publishes: total(report, PUBLISHES),
          refusals: total(report, REFUSALS),
        };
        const last = before.get(report.gateway);
        // The first report of a new or restarted gateway counts more than this second.
        if (last && last.started === now_.started) {
          publishes += now_.publishes - last.publishes;
          refusals += now_.refusals - last.refusals;
        }
        counted.set(report.gateway, now_);
      }
      const isFirst = !before.size;
      before = counted;
      const of = (/** @type {string} */ name, /** @type {string} */ share) =>
        largest(
          reports.map(
            (report) => report.latency?.[name]?.[`${share}_s`] ?? report.latency?.[name]?.[`${share}_beyond_s`],
          ),
        );
      samples.push({
        at: now,
        sockets: reports.reduce((sum, report) => sum + (report.sockets ?? 0), 0),
        webhook50: of("occurred_to_acked", "p50"),
        webhook99: of("occurred_to_acked", "p99"),
        commit50: of("committed_to_acked", "p50"),
        commit99: of("committed_to_acked", "p99"),
        publishes: isFirst ? null : publishes,
        refusals: isFirst ? null : refusals,
        bus: largest(
          reports.map((report) => (report.verified_at_us ? Math.max(0, now - report.verified_at_us / 1e6) : null)),
        ),
      });
      if (samples.length > KEPT) samples.shift();
    },
  };
};
