/** The model of one topic: the answer of the last poll, overridden by newer reports. Pure. */
import { EXPLAINED } from "./status.js";

/**
 * @typedef {object} Tab
 * @property {string} session @property {string} gateway @property {string} sub @property {string} client
 * @property {keyof EXPLAINED} status @property {string} why @property {number} [sent] @property {number} [acked]
 * @property {number} [nacked] @property {string} [reason] @property {number} [lag_ms] @property {boolean} [blocked]
 * @property {number} [buffered_bytes] @property {number} since seconds since 1970 @property {boolean} [frozen]
 */

/** @typedef {{gateway: string, status: string, why: string, version?: number, sockets?: number, watchers?: number, uncounted?: number}} Holder */

/**
 * @typedef {object} Model
 * @property {{version: number, age_s: number | null, state: string, cause: Record<string, string>}} committed
 * @property {Holder[]} gateways
 * @property {Record<string, number>} counts
 * @property {number} total  tabs
 * @property {number} uncounted
 * @property {Tab[]} tabs  from `from` on, the worst first
 * @property {number} from
 */

/** Why a tab has its status; for a nack, the reason from the tab's page. @param {Tab} tab */
export const reasonOf = ({ status, why = "", reason, frozen }) => {
  const text = status === "NACKED" && reason ? `It could not use the newest version: ${reason}` : why;
  return frozen ? `${text} Somebody has frozen it from here.` : text;
};

const ORDER = Object.keys(EXPLAINED);

/** @param {Tab} one @param {Tab} other */
const byTrouble = (one, other) =>
  ORDER.indexOf(one.status) - ORDER.indexOf(other.status) ||
  one.since - other.since ||
  (one.session < other.session ? -1 : 1);

/** @param {Record<string, number>[]} all */
const sum = (all) => {
  /** @type {Record<string, number>} */
  const counts = {};
  for (const each of all)
    for (const [status, count] of Object.entries(each)) counts[status] = (counts[status] ?? 0) + count;
  return counts;
};

/**
 * The model of a topic: a newer report replaces its gateway's part of the poll.
 * @param {any} answer of `topics/TOPIC`
 * @param {number} from the requested offset
 * @param {Map<string, any>} reports by gateway
 * @param {{name: string, isSilent: boolean}[]} known gateways
 * @returns {Model}
 */
export const mergeReports = (answer, from, reports, known) => {
  const silent = new Set(known.filter(({ isSilent }) => isSilent).map(({ name }) => name));
  const newer = [...reports].filter(([name, report]) => !silent.has(name) && report.at >= Math.floor(answer.at) - 1);
  const names = new Set(newer.map(([name]) => name));
  const polled = answer.gateways.filter((/** @type {Holder} */ { gateway }) => !names.has(gateway));
  const gateways = [...newer.map(([, report]) => report), ...polled].filter(
    ({ sockets, watchers, gateway }) => (sockets || watchers) && !silent.has(gateway),
  );
  const unheard = [...new Set([...silent, ...(answer.silent ?? [])])].map((gateway) => ({
    gateway,
    status: "SILENT",
    why: "It does not report: what its tabs show is not known.",
  }));
  const isAllReported = polled.every((/** @type {Holder} */ { sockets }) => !sockets);
  const counts = isAllReported ? sum(newer.map(([, report]) => report.counts ?? {})) : answer.counts;
  const total = Object.values(counts).reduce((all, count) => all + Number(count), 0);
  const isWhole = isAllReported && newer.every(([, report]) => !report.more);
  const reported = newer.flatMap(([gateway, report]) =>
    Object.entries(report.tabs ?? {}).map(([session, tab]) => ({ session, gateway, .../** @type {any} */ (tab) })),
  );
  return {
    committed: answer.committed,
    gateways: [...gateways, ...unheard].sort((one, other) => (one.gateway < other.gateway ? -1 : 1)),
    counts,
    total,
    uncounted: gateways.reduce((all, { uncounted = 0 }) => all + uncounted, 0),
    tabs: isWhole ? reported.sort(byTrouble) : answer.tabs,
    from: isWhole ? 0 : from,
  };
};
