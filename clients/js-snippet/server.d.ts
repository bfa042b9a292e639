/**
 * What came of a call. A number that is not known is absent, never 0.
 * @typedef {object} Answer
 * @property {boolean} allowed  whether it was counted; a denial changes nothing
 * @property {boolean} known    false: Planwire gave no answer, and `allowed` is what `whenUnknown` says
 * @property {number} [used]
 * @property {number} [reserved]
 * @property {number | "unlimited"} [limit]
 * @property {number | "unlimited"} [remaining]
 * @property {string} [resetsAt]      RFC 3339; absent if the count never begins anew
 * @property {number} [version]       of the entitlements that it was counted against; 0: the default plan's
 * @property {number} [usageVersion]  of the topic usage:ID
 * @property {number} [over]          units beyond the limit
 * @property {boolean} [repeated]     it was counted earlier, under the same key
 * @property {Error} [error]          why there is no answer
 */
/**
 * Units that are held for work of unknown size, until `finalize` says how many it used, or `cancel` gives them back.
 * @typedef {Answer & {id: string, finalize: (used: number) => Promise<Answer>, cancel: () => Promise<Answer>}} Reservation
 */
/**
 * @typedef {object} Options
 * @property {string} url  the gateway, e.g. `https://live.example.com`
 * @property {string} key  a publish key with the scope `usage`
 * @property {number} [timeoutMs]  for a call with its repetitions; default 3000
 * @property {number} [attemptMs]  for one attempt; default 1000
 * @property {"throw" | "allow" | "deny"} [whenUnknown]  what `consume`, `set` and `reserve` do if Planwire gives no answer
 *   in time: throw a UsageUnknown (default), or answer `{allowed, known: false}`. The other calls throw.
 * @property {typeof globalThis.fetch} [fetch]
 */
/** @typedef {{tenant: string, meter: string, operation?: "consume" | "release" | "set" | "reserve" | "finalize",
 *   amount?: number, key?: string, id?: string, seconds?: number}} BatchCall  `id`: of the reservation */
/** @typedef {Partial<Answer> & {key?: string, id?: string, code?: string, detail?: string}} BatchAnswer  `code`: why a call
 *   could not be counted; then `allowed` is absent, and `known` false. `key` or `id`: to repeat it with */
/** Planwire gave no answer in time. Whether the call was counted is not known; repeat it with the same `key`. */
export class UsageUnknown extends Error {
}
/** Planwire answered that the call cannot be counted. `code` is stable (docs/usage.md). */
export class UsageProblem extends Error {
    /** @param {number} status @param {{code?: string, detail?: string, title?: string}} problem */
    constructor(status: number, { code, detail, title }: {
        code?: string;
        detail?: string;
        title?: string;
    });
    status: number;
    code: string;
}
/** The units do not fit, so the work was not begun. `answer` says what is left. */
export class UsageDenied extends Error {
    /** @param {string} meter @param {Answer} answer */
    constructor(meter: string, answer: Answer);
    meter: string;
    answer: Answer;
}
export function server({ url, key: secret, timeoutMs, attemptMs, whenUnknown, fetch }: Options): {
    /**
     * Takes units, if they fit.
     * @param {string} tenant  the tenant's topic: `tenant:acme`, or `topic("tenant", id)`
     * @param {string} meter
     * @param {number} [amount]
     * @param {{key?: string}} [options]  `key`: of the work, so that doing it again does not count again
     * @returns {Promise<Answer>}
     * @throws {UsageProblem | UsageUnknown}
     */
    consume: (tenant: string, meter: string, amount?: number, { key }?: {
        key?: string;
    }) => Promise<Answer>;
    /** Gives units back. @param {string} tenant @param {string} meter @param {number} [amount] @param {{key?: string}} [options] */
    release: (tenant: string, meter: string, amount?: number, { key }?: {
        key?: string;
    }) => Promise<Answer>;
    /** Says how many are in use. @param {string} tenant @param {string} meter @param {number} amount @param {{key?: string}} [options] */
    set: (tenant: string, meter: string, amount: number, { key }?: {
        key?: string;
    }) => Promise<Answer>;
    /**
     * Holds units for work of unknown size.
     * @param {string} tenant @param {string} meter @param {number} amount
     * @param {{id?: string, seconds?: number}} [options]  `seconds`: then they are given back; default 300
     * @returns {Promise<Reservation>}
     */
    reserve: (tenant: string, meter: string, amount: number, { id, seconds }?: {
        id?: string;
        seconds?: number;
    }) => Promise<Reservation>;
    /**
     * Does work with reserved units. What `use` was called with counts, else all of them; if the work throws, only
     * what `use` was called with.
     * @template Result
     * @param {string} tenant @param {string} meter @param {number} amount
     * @param {(use: (units: number) => void, reservation: Reservation) => Promise<Result> | Result} work
     * @param {{id?: string, seconds?: number}} [options]
     * @returns {Promise<Result>}
     * @throws {UsageDenied} the units do not fit; the work was not begun
     * @throws {UsageUnknown} Planwire gave no answer; if the work is done, the error's `result` is what it returned
     */
    reserving: <Result>(tenant: string, meter: string, amount: number, work: (use: (units: number) => void, reservation: Reservation) => Promise<Result> | Result, options?: {
        id?: string;
        seconds?: number;
    }) => Promise<Result>;
    /**
     * Counts many calls, each for itself, of any tenants. Calls of one tenant are counted in order.
     * @param {BatchCall[]} calls
     * @returns {Promise<BatchAnswer[]>} one for each, in order
     */
    batch: (calls: BatchCall[]) => Promise<BatchAnswer[]>;
    /** What a tenant has used. @param {string} tenant @returns {Promise<import("./usage.js").Usage & {version: number}>} */
    read: (tenant: string) => Promise<import("./usage.js").Usage & {
        version: number;
    }>;
};
/**
 * What came of a call. A number that is not known is absent, never 0.
 */
export type Answer = {
    /**
     * whether it was counted; a denial changes nothing
     */
    allowed: boolean;
    /**
     * false: Planwire gave no answer, and `allowed` is what `whenUnknown` says
     */
    known: boolean;
    used?: number | undefined;
    reserved?: number | undefined;
    limit?: number | "unlimited" | undefined;
    remaining?: number | "unlimited" | undefined;
    /**
     * RFC 3339; absent if the count never begins anew
     */
    resetsAt?: string | undefined;
    /**
     * of the entitlements that it was counted against; 0: the default plan's
     */
    version?: number | undefined;
    /**
     * of the topic usage:ID
     */
    usageVersion?: number | undefined;
    /**
     * units beyond the limit
     */
    over?: number | undefined;
    /**
     * it was counted earlier, under the same key
     */
    repeated?: boolean | undefined;
    /**
     * why there is no answer
     */
    error?: Error | undefined;
};
/**
 * Units that are held for work of unknown size, until `finalize` says how many it used, or `cancel` gives them back.
 */
export type Reservation = Answer & {
    id: string;
    finalize: (used: number) => Promise<Answer>;
    cancel: () => Promise<Answer>;
};
export type Options = {
    /**
     * the gateway, e.g. `https://live.example.com`
     */
    url: string;
    /**
     * a publish key with the scope `usage`
     */
    key: string;
    /**
     * for a call with its repetitions; default 3000
     */
    timeoutMs?: number | undefined;
    /**
     * for one attempt; default 1000
     */
    attemptMs?: number | undefined;
    /**
     * what `consume`, `set` and `reserve` do if Planwire gives no answer
     * in time: throw a UsageUnknown (default), or answer `{allowed, known: false}`. The other calls throw.
     */
    whenUnknown?: "throw" | "allow" | "deny" | undefined;
    fetch?: typeof fetch | undefined;
};
/**
 * `id`: of the reservation
 */
export type BatchCall = {
    tenant: string;
    meter: string;
    operation?: "consume" | "release" | "set" | "reserve" | "finalize";
    amount?: number;
    key?: string;
    id?: string;
    seconds?: number;
};
/**
 * `code`: why a call
 *  could not be counted; then `allowed` is absent, and `known` false. `key` or `id`: to repeat it with
 */
export type BatchAnswer = Partial<Answer> & {
    key?: string;
    id?: string;
    code?: string;
    detail?: string;
};
