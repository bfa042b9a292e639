/** The actions of the page. Each has a dialog: it says what will happen, then the result and the audit entry. */
import { act, gateway, get } from "./api.js";
import { moment, plain } from "./model/format.js";
import { environmentOf } from "./model/links.js";
import { decoded } from "./model/topic_name.js";
import { curl } from "./ui/copy.js";
import { ask } from "./ui/dialog.js";
import { setAttribute } from "./ui/dom.js";

/** @typedef {import("./app.js").Context} Context */

const FAULT_S = "20";
const DELAY_MS = "1000";
const ABOUT_ANSWER = new Set(["action", "outcome", "audit", "gateway", "at"]);

/** The members of an answer, without those about the answer itself. @param {Record<string, unknown>} answer @returns {[string, string][]} */
const factsOf = (answer) =>
  Object.entries(answer)
    .filter(([name]) => !ABOUT_ANSWER.has(name))
    .map(([name, value]) => [name, plain(value)]);

/** The entry of the audit log. @param {string} id @returns {Promise<[string, string][]>} */
const entryOf = async (id) => {
  const { entries } = await get("audit", { limit: 50 });
  const entry = entries.find((/** @type {any} */ each) => each.id === id);
  if (!entry) return [["id", id]];
  const { at, parameters, scopes, ...rest } = entry;
  const filled = Object.entries(rest).filter(([, value]) => value != null && value !== "");
  return [
    ["at", moment(at * 1e6)],
    ...filled.map(([name, value]) => /** @type {[string, string]} */ ([name, plain(value)])),
  ];
};

/** @param {Context} context @param {string} name @param {Record<string, unknown>} parameters */
export const run = async (context, name, parameters) => {
  const answer = await act(name, parameters);
  context.soon();
  const audit = await entryOf(answer.audit).catch(
    () => /** @type {[string, string][]} */ ([["id", String(answer.audit)]]),
  );
  return { outcome: `Done: ${name}.`, facts: factsOf(answer), audit };
};

/** Why this session may not do an action; empty: it may. @param {any} session @param {string} name */
const whyNot = (session, name) => {
  if (session.actions?.includes(name)) return "";
  if (!session.scopes?.includes("admin")) return "This login may only read: its token has not the scope admin.";
  if (name === "simulate") return session.dev ? "No simulator runs beside this gateway." : "Only in development.";
  if (["drop", "freeze", "delay"].includes(name))
    return "Only in development (PLANWIRE_DEV=1): it harms a browser's connection.";
  if (!session.intake) return "The process that answers takes no webhooks, so it cannot do this.";
  return "It cannot be done here.";
};

/** A button for an action; without permission, it explains why. @param {any} session @param {string} name @param {HTMLElement} button */
export const guarded = (session, name, button) => {
  const why = whyNot(session, name);
  if (!why) return button;
  // Not `disabled`: a disabled button cannot be focused, so its explanation would not be shown.
  setAttribute(button, "aria-disabled", "true");
  setAttribute(button, "data-why", why);
  button.addEventListener("click", (event) => event.stopImmediatePropagation(), { capture: true });
  return button;
};

/** The same action as a backend's request, with a publish key. @param {string} path @param {unknown} [body] */
export const command = (path, body) => () => curl("POST", `${gateway}${path}`, { key: "PLANWIRE_PUBLISH_KEY", body });

export const tenantOf = (/** @type {string} */ topic) => topic.slice(topic.indexOf(":") + 1);

/** Opens the dialog that reads a tenant from the provider again. @param {Context} context @param {string} topic */
export const reconcile = (context, topic) =>
  ask({
    title: `Reconcile ${topic}`,
    says: "The provider is asked what it has of this tenant. What differs is repaired and becomes a new version, which every tab gets.",
    label: "Reconcile",
    command: command(`/v1/tenants/${tenantOf(topic)}/reconcile?env=${environmentOf(topic)[0]}`),
    run: () => run(context, "reconcile", { topic }),
  });

/**
 * Opens the dialog that publishes an older version again.
 * @param {Context} context
 * @param {string} topic
 * @param {number} version
 */
export const replay = (context, topic, version) =>
  ask({
    title: "Replay as a new version",
    says: `The public state of version ${version} (${moment(version)}) of ${topic} is committed again, as a new version, and goes to every tab. What backends see stays; the next event of the provider changes it again.`,
    label: "Replay",
    run: () => run(context, "replay", { topic, version }),
  });

/**
 * Opens the dialog that retries a parked event now.
 * @param {Context} context
 * @param {string} env
 * @param {{event_id: string, reason?: string}} event
 */
export const retry = (context, env, event) =>
  ask({
    title: "Retry a parked event",
    says: `${event.event_id} (${env}) is tried once more.${event.reason ? ` It waits because: ${event.reason}.` : ""}`,
    label: "Retry",
    command: command(`/v1/parked/${encodeURIComponent(event.event_id)}/retry?env=${env}`),
    run: () => run(context, "retry", { env, event_id: event.event_id }),
  });

/** Opens the dialog that retries all parked events of a topic now. @param {Context} context @param {string} topic */
export const retryAll = (context, topic) =>
  ask({
    title: "Retry parked events",
    says: `Every parked event of ${topic} is tried once more, at most 100.`,
    label: "Retry all",
    run: () => run(context, "retry_topic", { topic }),
  });

/**
 * Opens the dialog that revokes a topic for one subject, or for all.
 * @param {Context} context
 * @param {string} topic
 * @param {string} [sub]
 */
export const revoke = (context, topic, sub = "") =>
  ask({
    title: "Revoke",
    says: "Whoever it concerns loses the topic within a second, at every gateway. Tokens that were made before are refused for it from then on.",
    label: "Revoke",
    isGrave: true,
    command: command("/v1/sessions/revoke", sub ? { topic, sub } : { topic }),
    fields: [
      { name: "topic", label: "Topic", value: topic, optional: true },
      {
        name: "sub",
        label: "Subject (who)",
        value: sub,
        optional: true,
        help: "Topic alone: everybody who holds it. Subject alone: all that this subject holds. Both: the subject's hold on the topic.",
      },
    ],
    run: (values) =>
      run(context, "revoke", Object.fromEntries(Object.entries(values).filter(([, value]) => value.trim()))),
  });

/** Opens the dialog that makes the simulator send a webhook. @param {Context} context @param {string} topic */
export const simulate = (context, topic) => {
  const [env] = environmentOf(topic);
  const actions = context.session.simulator_actions ?? [];
  return ask({
    title: "Run the simulator",
    says:
      "The local provider does this to the tenant and sends the signed webhooks of it, as the real one would. " +
      "A scenario is about tenants of its own.",
    label: "Run",
    fields: [
      {
        name: "action",
        label: "What happens",
        type: "select",
        options: actions.map((/** @type {string} */ each) => [each, each.replaceAll("_", " ")]),
        value: "upgrade",
      },
      { name: "tenant", label: "Tenant", value: decoded(tenantOf(topic)) },
      {
        name: "env",
        label: "Environment",
        type: "select",
        options: (context.session.environments ?? [env]).map((/** @type {string} */ each) => [each, each]),
        value: env,
      },
      { name: "plan", label: "Plan", optional: true },
      { name: "addon", label: "Add-on", optional: true },
      {
        name: "app",
        label: "Application",
        optional: true,
        help: "Empty: the plan's or add-on's own, or else the leading one.",
      },
      { name: "quantity", label: "Quantity", type: "number", optional: true },
      { name: "amount", label: "Amount in cents, for a refund of a part", type: "number", optional: true },
      { name: "percent", label: "Percent, for a tax or a discount", type: "number", optional: true },
      { name: "seed", label: "Seed, for a scenario", type: "number", optional: true },
    ],
    run: (values) => {
      const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value.trim()));
      const numbers = ["quantity", "amount", "percent", "seed"].filter((each) => given[each]).map((each) => [each, Number(given[each])]);
      return run(context, "simulate", { ...given, ...Object.fromEntries(numbers) });
    },
  });
};

const FAULTS = {
  drop: "Drop: its connection is cut. The page connects anew within seconds, and gets what it missed.",
  freeze:
    "Freeze: nothing is written to it for a while, as to a browser that does not read. It turns BEHIND with the next version, and catches up afterwards with the newest only.",
  delay: "Delay: what is written to it comes late for a while.",
};

/** Injects a fault into one socket, in development. @param {Context} context @param {{session: string, sub: string}} tab */
export const fault = (context, { session, sub }) =>
  ask({
    title: `Harm the socket of ${sub || "a tab"}`,
    says: Object.values(FAULTS).join("\n"),
    label: "Do it",
    fields: [
      {
        name: "fault",
        label: "What happens",
        type: "select",
        options: Object.keys(FAULTS).map((name) => [name, name]),
        value: "freeze",
      },
      { name: "seconds", label: "For how many seconds (1 to 60; not for drop)", type: "number", value: FAULT_S },
      { name: "delay_ms", label: "Late by how many ms (50 to 5000; for delay)", type: "number", value: DELAY_MS },
    ],
    run: ({ fault: name, seconds, delay_ms }) =>
      run(context, name, {
        session,
        ...(name !== "drop" && { seconds: Number(seconds) }),
        ...(name === "delay" && { delay_ms: Number(delay_ms) }),
      }),
  });
