/** The card of what is bought once: what is sold so, what the tenant has, and how money goes back. */
import { day, make, money } from "./format.js";
import { purchases, request, topic } from "./session.js";

/** How long a purchase lasts. @param {any} offer */
const lasts = ({ expires_s: seconds }) => {
  if (!seconds) return "for ever";
  const unit = seconds >= 86_400 ? 86_400 : seconds >= 3600 ? 3600 : 60;
  return `for ${Math.round(seconds / unit)} ${unit == 86_400 ? "days" : unit == 3600 ? "hours" : "minutes"}`;
};

/** Adds the card to the page, if something is sold once. @param {HTMLElement} page @param {any[]} offers */
export const showPurchases = (page, offers) => {
  const once = offers.filter((offer) => offer.is_once && offer.amount);
  if (!once.length) return;
  const list = make("ul", { class: "rows bought" });
  const buys = make("div", { class: "actions" });
  const element = make(
    "section",
    { class: "card", id: "purchases", "aria-labelledby": "purchases-heading" },
    make("h2", { class: "eyebrow", id: "purchases-heading" }, "Bought once"),
    list,
    buys,
  );

  /** @param {string} text @param {string} action @param {object} parameters @param {boolean} [changes] */
  const offer = (text, action, parameters, changes) => {
    const button = make("button", { type: "button", "data-do": action }, text);
    button.addEventListener("click", async () => {
      await request(button, action, parameters, changes);
      void load();
    });
    return button;
  };

  /** One purchase: what, when, what went back, and what can happen to it. @param {any} bought */
  const row = ({ id, items, created_at: at, paid, back, adjustments }) => {
    const isLost = adjustments.some((/** @type {any} */ each) => each.action == "chargeback" && each.status == "approved");
    const told = !back ? `paid ${money(paid)}` : back < paid ? `${money(back)} of ${money(paid)} back` : "money back";
    const about = { transaction_id: id };
    return make(
      "li",
      { "data-on": String(back < paid) },
      make("span", {}, `${items[0].price.name}, ${day(at)}: ${told}`),
      make(
        "span",
        { class: "actions" },
        ...[
          back < paid && offer("Refund", "refund", about),
          back < paid && offer("Chargeback", "chargeback", about),
          isLost && offer("Win the chargeback", "chargeback_reverse", about),
        ].filter((each) => each !== false),
      ),
    );
  };

  const load = async () => {
    const found = await purchases().catch(() => undefined);
    // Not known is not "nothing": what was shown stays.
    if (!found) return;
    list.replaceChildren(...(found.length ? found.map(row).toReversed() : [make("li", { class: "quiet" }, "Nothing yet")]));
  };

  buys.append(
    ...once.map((each) =>
      offer(`Buy ${each.name}, ${money(each.amount)} ${lasts(each)}`, "buy", { [each.kind]: each.key }),
    ),
  );
  page.append(element);
  let shown = -1;
  topic.subscribe(({ version, status }) => {
    if (status == "connecting" || version === shown) return;
    shown = version;
    void load();
  });
};
