/** What a TypeScript user writes; checked by `npm run check`, never run. */
import { OpenFeature } from "@openfeature/web-sdk";
import type { Readable } from "svelte/store";
import { app } from "../app.js";
import { define } from "../elements.js";
import { fallback } from "../fallback.js";
import { provider } from "../openfeature.js";
import { planwire, topic as topicOf, type Entitlements, type Snapshot, type Status, type Topic } from "../planwire.js";
import { usePlanwire as useReact } from "../react.js";
import { injected, stored } from "../storage.js";
import { part } from "../svelte.js";
import { tabs } from "../tabs.js";
import { usePlanwire as useVue } from "../vue.js";

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

// @ts-expect-error an id is needed
topicOf("tenant", undefined);
// @ts-expect-error a token is needed
planwire({ url: "" });
// @ts-expect-error snapshots are read-only
topic.getSnapshot().version = 1;
// @ts-expect-error there is no such status
const wrong: Status = "live";

void [stop, came, store, seats, rendered, whole, reference, wrong, name, level, inCrm, custom];
