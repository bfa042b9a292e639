/** The actions on a tenant's usage: correct what is used, and give credits. */
import { command, run, tenantOf } from "../../actions.js";
import { environmentOf } from "../../model/links.js";
import { nameOf, usedOf } from "../../model/usage.js";
import { ask } from "../../ui/dialog.js";

/** @typedef {import("../../app.js").Context} Context */

/** The path of a meter's route for backends. @param {string} tenant @param {string} meter @param {string} what */
const route = (tenant, meter, what) =>
  `/v1/tenants/${tenantOf(tenant)}/usage/${meter}/${what}?env=${environmentOf(tenant)[0]}`;

/** @param {any[]} meters @returns {import("../../ui/dialog.js").Field} */
const meterField = (meters) => ({
  name: "meter",
  label: "Meter",
  type: "select",
  value: meters[0]?.meter,
  options: meters.map((each) => [each.meter, `${nameOf(each)}: ${usedOf(each)}`]),
});

/**
 * Opens the dialog that corrects what a tenant has used.
 * @param {Context} context @param {any} answer of `usage/TOPIC`
 */
export const adjust = (context, { tenant, meters }) =>
  ask({
    title: `Correct the use of ${tenant}`,
    says: "What is used changes at once, for the next call and in open pages. The limit stays. The reason goes into the history.",
    label: "Correct",
    command: command(route(tenant, "METER", "adjust"), { by: -1, reason: "REASON" }),
    fields: [
      meterField(meters),
      {
        name: "how",
        label: "How",
        type: "select",
        value: "by",
        options: [
          ["by", "more or less, by"],
          ["to", "set what is used to"],
        ],
      },
      { name: "amount", label: "Units", type: "number", help: "Such as -5 for five units less." },
      { name: "reason", label: "Reason" },
    ],
    run: ({ meter, how, amount, reason }) =>
      run(context, "adjust_usage", { topic: tenant, meter, [how]: Number(amount), reason }),
  });

/**
 * Opens the dialog that gives a tenant credits.
 * @param {Context} context @param {any} answer of `usage/TOPIC`
 */
export const grant = (context, { tenant, meters }) =>
  ask({
    title: `Grant ${tenant} credits`,
    says: "The credits count at once, beside what is paid for. What ends first is used first. The reason goes into the history.",
    label: "Grant",
    command: command(route(tenant, "METER", "grant"), { amount: 100, reason: "REASON" }),
    fields: [
      meterField(meters.filter((/** @type {any} */ { kind }) => kind === "credits")),
      { name: "amount", label: "Credits", type: "number" },
      {
        name: "ends_at",
        label: "Until",
        optional: true,
        help: "A time with its zone, such as 2027-01-31T12:00:00Z. Empty: they do not end.",
      },
      { name: "reason", label: "Reason" },
    ],
    run: ({ meter, amount, ends_at: ends, reason }) =>
      run(context, "grant_credits", {
        topic: tenant,
        meter,
        amount: Number(amount),
        reason,
        ...(ends?.trim() && { ends_at: ends.trim() }),
      }),
  });
