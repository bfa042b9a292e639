/** What a TypeScript user writes; checked by `npm run check`, never run. */
import { OpenFeature } from "@openfeature/web-sdk";
import type { Readable } from "svelte/store";
import { app } from "../app.js";
import { define } from "../elements.js";
import { fallback } from "../fallback.js";
import { provider } from "../openfeature.js";
import { planwire, topic as topicOf, type Entitlements, type Snapshot, type Status, type Topic } from "../planwire.js";
import { limit } from "../express.js";
import { usePlanwire as useReact, useUsage as useReactUsage } from "../react.js";
import { server, type Answer, type Reservation } from "../server.js";
import { injected, stored } from "../storage.js";
import { part, useUsage as useSvelteUsage } from "../svelte.js";
import { tabs } from "../tabs.js";
import { meter, usage, type Meter, type Usage } from "../usage.js";
import { usePlanwire as useVue, useUsage as useVueUsage } from "../vue.js";

interface Plan {
  plan: { key: string };
  limits: { seats: number };
}

const client = planwire({
  url: "https://live.example.com",
  token: async () => "jwt",
  socket: tabs({ subject: "ann", socket: fallback() }),
  initial: injected(),
});
const topic: Topic<Plan> = client.topic<Plan>("tenant:acme");
const stop: () => void = topic.subscribe((snapshot: Snapshot<Plan>) => {
  const status: Status = snapshot.status;
  const seats: number | undefined = snapshot.state?.limits.seats;
  void [status, seats];
});
const came: Promise<boolean> = topic.expect({ after: 1, timeoutMs: 1000 });
const store: Readable<Snapshot<Plan>> = topic;
const seats: Readable<number> = part(topic, ({ state }) => state?.limits.seats ?? 0);
const rendered: number = useReact(topic, (snapshot) => snapshot.state?.limits.seats ?? 0);
const whole: Snapshot<Plan> = useReact(topic);
const reference: { readonly value: string } = useVue(topic, ({ status }) => status);
define(topic);
const tenant: Topic<Entitlements> = client.topic<Entitlements>("tenant:acme");
const level: string | undefined = tenant.getSnapshot().state?.apps?.crm.modules.reports;
const inCrm: string | undefined = app(tenant, "crm").getSnapshot().state?.plan?.key;
const custom: Topic<Plan> = app<Plan>(topic, "crm");
OpenFeature.setProvider("crm", provider(app(topic, "crm")));
OpenFeature.setProvider(provider(topic));
stored({ url: "", token: "jwt", subject: "ann" }).topic(topicOf("user", 42)).close();
const name: string = topicOf("tenant", "auth0|5f1c", "sandbox");
const counts: Topic<Usage> = usage(client, "tenant:acme");
const calls: Readonly<Meter> = useReactUsage(counts, "api_calls");
const { value }: { readonly value: Readonly<Meter> } = useVueUsage(counts, "api_calls");
const meters: Readable<Readonly<Meter>> = useSvelteUsage(counts, "api_calls");
const left: number | "unlimited" | undefined = meter(counts.getSnapshot(), "api_calls").remaining;
const backend = server({ url: "https://live.example.com", key: "pw_key", whenUnknown: "allow" });
const answer: Promise<Answer> = backend.consume("tenant:acme", "api_calls", 3, { key: "request-7f3a" });
const reservation: Promise<Reservation> = backend.reserve("tenant:acme", "tokens", 100, { seconds: 60 });
const made: Promise<string> = backend.reserving("tenant:acme", "tokens", 100, async (use) => (use(3), "text"));
const middleware: (req: { company: string }, res: any, next: (error?: unknown) => void) => Promise<void> = limit(
  backend,
  "api_calls",
  { tenant: (req: { company: string }) => topicOf("tenant", req.company) },
);

// @ts-expect-error there is no such policy
server({ url: "", key: "", whenUnknown: "ignore" });
// @ts-expect-error an id is needed
topicOf("tenant", undefined);
// @ts-expect-error a token is needed
planwire({ url: "" });
// @ts-expect-error snapshots are read-only
topic.getSnapshot().version = 1;
// @ts-expect-error there is no such status
const wrong: Status = "live";

void [stop, came, store, seats, rendered, whole, reference, wrong, name, level, inCrm, custom];
void [calls, value, meters, left, answer, reservation, made, middleware];
