export function planwire({ url, token, initial, socket }: Options): Planwire;
export { topicName as topic };
export type Status = "connecting" | "fresh" | "stale" | "offline" | "denied";
export type Cause = {
    source?: string;
    event_id?: string;
    event_type?: string;
    occurred_at?: string;
    received_at?: string;
};
/**
 * A topic's state and status. Frozen, the state included; the same object until something changes.
 */
export type Snapshot<State = any> = {
    /**
     * the newest state; null: there is none, or none has arrived yet
     */
    state: State | null;
    /**
     * microseconds since 1970, strictly rising; 0: no state
     */
    version: number;
    /**
     * `fresh` only while a gateway that hears every change confirms this state
     */
    status: Status;
    /**
     * ms since 1970 by this machine's clock, the last moment `state` was known to be the
     *        newest; absent: never
     */
    asOf?: number | undefined;
    /**
     * why it is not fresh: `silence`, `gateway` (it does not hear every change), `bye`,
     * a close code, an event's name, an error, `revoked`, ...; on a fresh one `pending`,
     * `expired` (see `expect`) or empty
     */
    reason?: string | number | undefined;
    /**
     * what led to this version
     */
    cause?: Cause | undefined;
};
/**
 * The state of `tenant:ID` as billing computes it: `topic<Entitlements>("tenant:acme")`. Absent fields do not apply.
 * Times are RFC 3339. The server's documentation says what each status means (`docs/providers.md`).
 */
export type Entitlements = {
    plan: {
        key: string;
        name: string;
        rank: number;
    };
    status: "none" | "incomplete" | "trialing" | "active" | "past_due" | "unpaid" | "paused" | "canceled";
    features: Record<string, true>;
    limits: Record<string, number | "unlimited">;
    modules: Record<string, string>;
    scheduled?: {
        action: "cancel" | "pause" | "resume" | "change_plan";
        plan?: string;
        effective_at: string;
        resume_at?: string;
        source: "provider" | "app";
        overdue: boolean;
        problem?: string;
    } | undefined;
    pending?: {
        reason: string;
        since: string;
    } | undefined;
    grant?: {
        plan: string;
        trial?: true;
        ends_at?: string;
    } | undefined;
    period?: {
        starts_at: string;
        ends_at: string;
    } | undefined;
    trial_ends_at?: string | undefined;
    grace_ends_at?: string | undefined;
    /**
     * the next time at which the state may change without an event
     */
    valid_until?: string | undefined;
    /**
     * of a tenant that owns several; `app.js` has one as a topic
     */
    apps?: Record<string, Application> | undefined;
};
/**
 * What a tenant has of one application. Without a plan nothing is bought, and there is no default plan.
 */
export type Application = Omit<Entitlements, "plan" | "apps"> & {
    plan?: Entitlements["plan"];
};
/**
 * A live topic. `subscribe` is the Svelte store contract; `getSnapshot` suits React's useSyncExternalStore.
 */
export type Topic<State = any> = {
    /**
     *   calls back at once, then on every change; the first call connects. A listener that throws is reported to the
     *   gateway and does not stop the others.
     */
    subscribe: (listener: (snapshot: Readonly<Snapshot<State>>) => void) => () => void;
    getSnapshot: () => Readonly<Snapshot<State>>;
    /**
     * the snapshot that this page started with
     */
    getServerSnapshot: () => Readonly<Snapshot<State>>;
    /**
     *   "I just paid": true once a version newer than `after` (default: the shown version) is shown; false if none comes
     *   within `timeoutMs` (default 30000, at most 120000). With `checkout`, the provider's id of the checkout (`txn_...`,
     *   `cs_...`), it is read there if no webhook comes, and it is true also if the state contains the purchase already.
     *   Concurrent calls with the same `checkout`, or without one with the same `after`, share one promise. Never rejects.
     */
    expect: (options?: {
        after?: number;
        timeoutMs?: number;
        checkout?: string;
    }) => Promise<boolean>;
    /**
     * leaves the topic; the last topic closes the socket
     */
    close: () => void;
};
/**
 * The part of a WebSocket that the client uses; tabs.js and fallback.js have their own. No events after `close`.
 */
export type Socket = {
    send: (text: string) => void;
    close: () => void;
    onopen: any;
    onmessage: any;
    onclose: any;
};
/**
 * A snapshot to start with, from the server or from storage.
 */
export type FirstPaint = {
    version: number;
    state: any;
    status: "stale";
    reason?: string;
    asOf?: number;
};
export type Options = {
    /**
     * the gateway, e.g. `https://live.example.com`; `wss:` for browsers from before 2024
     */
    url: string;
    /**
     *   a token, or a function that fetches one. It is kept, and fetched anew when it is refused or about to expire. If
     *   the function throws, it is called again later.
     */
    token: string | (() => string | Promise<string>);
    /**
     * how to connect; default: a WebSocket
     */
    socket?: ((url: string) => Socket) | undefined;
    /**
     * what to show until the gateway answers
     */
    initial?: ((topic: string) => FirstPaint | null | undefined) | undefined;
};
export type Planwire = {
    topic: <State = any>(name: string) => Topic<State>;
};
/**
 * The name of the topic of one of your ids: `topic("tenant", "auth0|5f1c")` is `tenant:auth0%7C5f1c`.
 *
 * Every byte of the id except `A-Z a-z 0-9 . _ ~ @ -` is percent-encoded, so different ids have different topics.
 * @param {string} kind  such as tenant or user
 * @param {string | number} id  as your application has it, not encoded; at most 128 bytes of UTF-8
 * @param {string} [env]  live is written without a prefix
 * @returns {string}
 * @throws {TypeError} the id names nobody, such as `undefined` or an empty text, or it is too long
 */
declare function topicName(kind: string, id: string | number, env?: string): string;
