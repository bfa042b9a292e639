/**
 * What a tenant has used of its limits, in a page. Role: `usage(client, "tenant:acme")` is a topic for everything that
 * takes a topic, and `meter(snapshot, "api_calls")` is what it says of one meter.
 *
 * Counts and entitlements are two topics. A count belongs to the limits of one version of the entitlements, which it
 * names; it is shown as current only while that is the version that the page knows to be the newest.
 */

/** @typedef {import("./planwire.js").Snapshot} Snapshot */

/**
 * The state of `usage:ID`. Times are RFC 3339.
 * @typedef {object} Usage
 * @property {number} base          the version before
 * @property {number} entitlements  the version of `tenant:ID` that the limits are from
 * @property {Record<string, {kind: "consumable" | "allocated" | "credits", used: number, reserved: number,
 *   limit?: number | "unlimited", remaining?: number | "unlimited", status: MeterStatus, period?: Period,
 *   grants?: CreditGrant[]}>} meters
 */

/** @typedef {"ok" | "near" | "reached" | "over" | "unknown"} MeterStatus */
/** @typedef {{starts_at: string, ends_at: string}} Period */
/** @typedef {{id: string, amount: number, remaining: number, ends_at?: string}} CreditGrant  credits that were bought once */

/**
 * One meter. Frozen; the same object until something of it changes. A number that is not known is absent, never 0.
 * @typedef {object} Meter
 * @property {MeterStatus} status  `unknown`: the count or its limit is not known
 * @property {boolean} fresh       whether count and limit are the newest
 * @property {number} [used]
 * @property {number} [reserved]
 * @property {number | "unlimited"} [limit]
 * @property {number | "unlimited"} [remaining]
 * @property {string} [resetsAt]   when the count begins anew; absent if it does not
 * @property {readonly CreditGrant[]} [grants]
 */

/**
 * The topic of a tenant's usage. Its state is `fresh` only together with the entitlements that its limits are from.
 * @param {import("./planwire.js").Planwire} client
 * @param {string} tenant  the tenant's topic, such as `tenant:acme`
 * @returns {import("./planwire.js").Topic<Usage>} its `expect` waits for the tenant's entitlements; closing it leaves
 *   the topic of the tenant open
 * @throws {TypeError} it is no tenant's topic
 */
export const usage = (client, tenant) => {
  const name = tenant.replace(/(^|\/)tenant:/, "$1usage:");
  if (name == tenant) throw new TypeError(`${tenant} is no tenant's topic, such as tenant:acme`);
  const counts = client.topic(name);
  const entitlements = client.topic(tenant);
  const getSnapshot = joined(counts.getSnapshot, entitlements.getSnapshot);
  return {
    ...counts,
    expect: entitlements.expect,
    subscribe: (listener) => {
      /** @type {Readonly<Snapshot> | undefined} */
      let last;
      const call = () => {
        const next = getSnapshot();
        if (next != last) listener((last = next));
      };
      const stops = [counts.subscribe(call), entitlements.subscribe(call)];
      return () => stops.forEach((stop) => stop());
    },
    getSnapshot,
    getServerSnapshot: joined(counts.getServerSnapshot, entitlements.getServerSnapshot),
  };
};

/**
 * Returns what reads both topics. Equal snapshots make the same one.
 * @param {() => Readonly<Snapshot>} counts @param {() => Readonly<Snapshot>} entitlements @returns {() => Readonly<Snapshot>}
 */
const joined = (counts, entitlements) => {
  /** @type {any} */
  let last = [];
  return () => {
    const [count, entitled] = [counts(), entitlements()];
    if (last[0] != count || last[1] != entitled) last = [count, entitled, join(count, entitled, last[2])];
    return last[2];
  };
};

/**
 * @param {Readonly<Snapshot>} count @param {Readonly<Snapshot>} entitled @param {Readonly<Snapshot>} [last]
 * @returns {Readonly<Snapshot>}
 */
const join = (count, entitled, last) => {
  if (count.status != "fresh" || !count.state) return count;
  const isKnown = entitled.status == "fresh";
  if (isKnown && entitled.version == count.state.entitlements) return count;
  const reason = isKnown ? "entitlements" : entitled.reason;
  return Object.freeze({ ...count, status: "stale", reason, asOf: last?.asOf });
};

/** @type {Readonly<Meter>[]} */
const UNKNOWN = [false, true].map((fresh) => Object.freeze({ status: "unknown", fresh }));
/** @type {WeakMap<object, Readonly<Meter>>[]} what was made of each meter of a state: not fresh, fresh */
const known = [new WeakMap(), new WeakMap()];

/**
 * What a snapshot of `usage(...)` says of one meter.
 * @param {Snapshot} snapshot
 * @param {string} name  of the meter in the catalog
 * @returns {Readonly<Meter>}
 */
export const meter = ({ state, status }, name) => {
  const fresh = +(status == "fresh");
  // A page that may not see the count shows none, not the last one.
  if (status == "denied" || !state?.meters || !Object.hasOwn(state.meters, name)) return UNKNOWN[fresh];
  const found = state.meters[name];
  const { kind, period, ...rest } = found;
  const made = known[fresh].get(found) ?? Object.freeze({ ...rest, fresh: !!fresh, resetsAt: period?.ends_at });
  known[fresh].set(found, made);
  return made;
};
