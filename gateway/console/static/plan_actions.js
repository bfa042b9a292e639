/** The actions on a tenant's plans: grant, preview, schedule. Of several applications each is about one. */
import { command, run, tenantOf } from "./actions.js";
import { act } from "./api.js";
import { environmentOf } from "./model/links.js";
import { ask } from "./ui/dialog.js";

/** @typedef {import("./app.js").Context} Context */

const GRANT_DAYS = 14;

/** The field that names the application; none if the tenant has only one. @param {string[]} apps @param {string} otherwise */
const appField = (apps, otherwise) =>
  apps.length
    ? [
        {
          name: "app",
          label: "Application",
          type: /** @type {"select"} */ ("select"),
          value: "",
          optional: true,
          options: /** @type {[string, string][]} */ ([["", otherwise], ...apps.map((app) => [app, app])]),
        },
      ]
    : [];

/** The values that are filled in; those of `numbers` as numbers. @param {Record<string, string>} values @param {...string} numbers */
const filled = (values, ...numbers) =>
  Object.fromEntries(
    Object.entries(values)
      .filter(([, value]) => value.trim())
      .map(([name, value]) => [name, numbers.includes(name) ? Number(value) : value]),
  );

/** The path of a tenant's route for backends. @param {string} topic @param {string} what */
const route = (topic, what) => `/v1/tenants/${tenantOf(topic)}/${what}?env=${environmentOf(topic)[0]}`;

/** Opens the dialog that grants a tenant a plan until a date. @param {Context} context @param {string} topic */
export const grant = (context, topic) =>
  ask({
    title: `Grant ${topic} a plan`,
    says: "The plan counts beside what is paid for, until its end. It only adds, and ends by itself. The reason goes into the tenant's history.",
    label: "Grant",
    fields: [
      { name: "plan", label: "Plan", help: "Its key in the catalog. It counts in the application that it is sold for." },
      {
        name: "expires_at",
        label: "Until",
        value: new Date(Date.now() + GRANT_DAYS * 86_400_000).toISOString().replace(/\.\d+Z$/, "Z"),
        help: "A time with its zone, such as 2027-01-31T12:00:00Z.",
      },
      { name: "reason", label: "Reason" },
      { name: "units", label: "Units", type: "number", optional: true, help: "Empty: as many as are paid for." },
      {
        name: "trial",
        label: "As a trial",
        type: "select",
        value: "no",
        options: [
          ["no", "no"],
          ["yes", "yes: the state shows it"],
        ],
      },
    ],
    run: ({ trial, ...values }) => run(context, "grant", { topic, trial: trial === "yes", ...filled(values, "units") }),
  });

const NOW = "cancel now";
const LATER = "cancel at the period's end";

/** A difference between two states, for a list of facts. @param {any} difference @returns {[string, string]} */
const shownDifference = ({ path, from, to }) => [path, `${JSON.stringify(from ?? null)} → ${JSON.stringify(to ?? null)}`];

/** An amount in minor units. @param {any} money @param {number | undefined} amount */
const shownAmount = ({ currency, exponent = 2 }, amount) =>
  amount === undefined ? "not known" : `${(amount / 10 ** exponent).toFixed(exponent)} ${currency}`;

/** What a change costs. @param {any} money @returns {[string, string][]} */
const shownMoney = (money) =>
  money
    ? [
        ["due now", shownAmount(money, money.due_now)],
        ["next bill", `${shownAmount(money, money.next?.amount)}${money.next?.at ? ` on ${money.next.at}` : ""}`],
      ]
    : [];

/**
 * Opens the dialog that shows what a change would make of a tenant.
 * @param {Context} context @param {string} topic @param {string[]} apps its applications
 */
export const preview = (context, topic, apps) =>
  ask({
    title: `Preview a change of ${topic}`,
    says: "Nothing is changed. The state after the change is computed, and the provider can be asked what it costs.",
    label: "Preview",
    fields: [
      {
        name: "change",
        label: "Change",
        type: "select",
        value: "plan",
        options: [
          ["plan", "another plan, or another quantity"],
          ["now", NOW],
          ["period_end", LATER],
        ],
      },
      { name: "plan", label: "Plan", optional: true, help: "Its key in the catalog; not for a cancellation." },
      ...appField(apps, "the plan's own, or the leading one"),
      { name: "quantity", label: "Quantity", type: "number", optional: true, help: "Empty: as many as now." },
      {
        name: "ask_provider",
        label: "Ask the provider",
        type: "select",
        value: "no",
        options: [
          ["no", "no"],
          ["yes", "yes: what it costs"],
        ],
      },
    ],
    run: async ({ change, ask_provider: asks, ...values }) => {
      const what = change === "plan" ? filled(values, "quantity") : { ...filled({ app: values.app ?? "" }), cancel: change };
      const answer = await act("preview", { topic, ...what, ...(asks === "yes" && { ask_provider: true }) });
      const { diff, money, provider_differs: differs = [] } = answer;
      return {
        outcome: diff.length ? "After the change:" : "The change makes no difference to what the tenant has.",
        facts: [
          ...diff.map(shownDifference),
          ...shownMoney(money),
          ...differs.map((/** @type {any} */ each) => [`provider: ${each.path}`, shownDifference(each)[1]]),
        ],
        audit: [["id", String(answer.audit)]],
      };
    },
  });

/**
 * Opens the dialog that holds a plan change until its time.
 * @param {Context} context @param {string} topic @param {string[]} apps its applications
 */
export const schedule = (context, topic, apps) =>
  ask({
    title: `Schedule a change of ${topic}`,
    says: "The plan changes at its time, at the provider too. It takes the place of a change that is held for the same application.",
    label: "Schedule",
    command: command(route(topic, "scheduled-change"), { plan: "PLAN" }),
    fields: [
      { name: "plan", label: "Plan", help: "Its key in the catalog." },
      ...appField(apps, "the plan's own"),
      {
        name: "effective_at",
        label: "When",
        optional: true,
        help: "A time with its zone, such as 2027-01-31T12:00:00Z. Empty: at the end of the paid period.",
      },
    ],
    run: (values) => run(context, "schedule", { topic, ...filled(values) }),
  });

/**
 * Opens the dialog that forgets a scheduled plan change.
 * @param {Context} context @param {string} topic @param {string[]} apps its applications
 */
export const unschedule = (context, topic, apps) =>
  ask({
    title: `Forget the scheduled change of ${topic}`,
    says: "The plan stays as it is. What is scheduled at the provider, such as a cancellation, is not touched.",
    label: "Forget",
    fields: appField(apps, "the leading one"),
    run: (values) => run(context, "unschedule", { topic, ...filled(values) }),
  });
