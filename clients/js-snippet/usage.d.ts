export function usage(client: import("./planwire.js").Planwire, tenant: string): import("./planwire.js").Topic<Usage>;
export function meter({ state, status }: Snapshot, name: string): Readonly<Meter>;
export type Snapshot = import("./planwire.js").Snapshot;
/**
 * The state of `usage:ID`. Times are RFC 3339.
 */
export type Usage = {
    /**
     * the version before
     */
    base: number;
    /**
     * the version of `tenant:ID` that the limits are from
     */
    entitlements: number;
    meters: Record<string, {
        kind: "consumable" | "allocated" | "credits";
        used: number;
        reserved: number;
        limit?: number | "unlimited";
        remaining?: number | "unlimited";
        status: MeterStatus;
        period?: Period;
        grants?: CreditGrant[];
    }>;
};
export type MeterStatus = "ok" | "near" | "reached" | "over" | "unknown";
export type Period = {
    starts_at: string;
    ends_at: string;
};
/**
 * credits that were bought once
 */
export type CreditGrant = {
    id: string;
    amount: number;
    remaining: number;
    ends_at?: string;
};
/**
 * One meter. Frozen; the same object until something of it changes. A number that is not known is absent, never 0.
 */
export type Meter = {
    /**
     * `unknown`: the count or its limit is not known
     */
    status: MeterStatus;
    /**
     * whether count and limit are the newest
     */
    fresh: boolean;
    used?: number | undefined;
    reserved?: number | undefined;
    limit?: number | "unlimited" | undefined;
    remaining?: number | "unlimited" | undefined;
    /**
     * when the count begins anew; absent if it does not
     */
    resetsAt?: string | undefined;
    grants?: readonly CreditGrant[] | undefined;
};
