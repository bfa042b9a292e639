/** A tenant's subscriptions: what names the tenant, the strongest name first, and which are of a second customer. */
import { get, ApiError } from "../api.js";
import { inPath } from "../model/links.js";
import { card, h, keyed, line, setAttribute, setText, table } from "../ui/dom.js";

const HEADS = ["Subscription", "Status", "Plan", "Named by", "Other names", "Customer", "Remark"];

/** Why a subscription has its version of the plan. @type {Record<string, string>} */
const WHY = { purchase: "by its purchase", price: "by its price", move: "moved to it" };

/** The plan that a live subscription has, and its version. @param {any} link */
const planOf = ({ plan, plan_version: version, version_by: by }) =>
  plan === undefined ? "" : version === "current" ? plan : `${plan} ${version} (${WHY[by] ?? by})`;

/** An amount in minor units, if it is known. @param {any} of @param {string} name */
const amount = (of, name) => (of[name] === undefined ? "" : ` ${of[name]} ${of.currency ?? ""}`.trimEnd());

/** A refund or chargeback. @param {any} back */
const wentBack = (back) =>
  `${back.kind}${amount(back, "amount")} ${back.at}${back.status === "approved" ? "" : ` (${back.status})`}`;

/** What there is to say of a subscription. @param {any} link */
const remark = ({ overrules, second_customer: isSecond, moved_at: movedAt, to, purchase, went_back: back = [] }) =>
  [
    purchase && `bought once ${purchase.bought_at}${amount(purchase, "total")}`,
    purchase?.expires_at && `until ${purchase.expires_at}`,
    ...back.map(wentBack),
    isSecond && "a second customer: it only adds to the plan",
    overrules && `overrules ${overrules} in the metadata`,
    movedAt && (to === undefined ? `moved here ${movedAt}` : `moved to ${to} ${movedAt}`),
  ]
    .filter(Boolean)
    .join("; ");

/**
 * The rows of an answer: what belongs to the tenant, and what was moved away.
 * @param {any} answer of `links/TOPIC`
 */
export const linkRows = ({ links = [], moved = [] }) => [
  ...links.map((/** @type {any} */ link) => ({
    subscription: link.subscription,
    isSecond: Boolean(link.second_customer),
    cells: [
      link.subscription,
      link.status,
      planOf(link),
      link.named_by ?? "nothing",
      Object.entries(link.names)
        .filter(([kind]) => kind !== link.named_by)
        .map(([kind, tenant]) => `${kind} ${tenant}`)
        .join(", "),
      link.customer_id,
      remark(link),
    ],
  })),
  ...moved.map((/** @type {any} */ link) => ({
    subscription: link.subscription,
    isSecond: false,
    cells: [link.subscription, "", "", "", "", "", remark({ to: "nobody", ...link })],
  })),
];

/** The card of a topic's subscriptions. @param {string} name of the topic */
export const subscriptions = (name) => {
  const { element, body } = table("Subscriptions", HEADS);
  const none = h("p", { class: "quiet", role: "status" });

  const show = (/** @type {any} */ answer) => {
    const found = linkRows(answer);
    setText(none, answer.why ?? (found.length ? "" : "No subscription belongs to it."));
    none.hidden = !none.textContent;
    element.hidden = !found.length;
    keyed(
      body,
      found,
      (row) => row.subscription,
      () => line(HEADS),
      (row, { cells, isSecond }) => {
        setAttribute(row, "class", isSecond ? "found" : null);
        cells.forEach((/** @type {unknown} */ text, /** @type {number} */ index) => setText(row.children[index], text));
      },
    );
  };

  return {
    element: card("subscriptions", "Subscriptions and what names the tenant", none, element),
    /** @param {AbortSignal} signal */
    load: async (signal) =>
      show(
        await get(`links/${inPath(name)}`, {}, signal).catch((error) => {
          if (error instanceof ApiError && error.status === 403)
            return { why: "This login may not see them: its token has not the scope private." };
          if (error instanceof ApiError && error.status < 500) return { why: `${error.message}.` };
          throw error;
        }),
      ),
  };
};
