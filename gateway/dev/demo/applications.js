/** A card for each application beside the leading one: its plan, what comes, and what can be bought. */
import { app } from "../client/app.js";
import { fill, make, money, sentence, STATUSES, titled } from "./format.js";
import { request, topic } from "./session.js";

/** What is shown of an application's plan while its state is not known. */
const UNKNOWN = "Not known yet";

/** @param {string} name of the application @param {any[]} offers all that are sold */
const card = (name, offers) => {
  const plans = offers.filter((offer) => offer.kind == "plan" && offer.app == name && offer.amount && !offer.is_once);
  const plan = make("strong", { class: "plan app-plan" });
  const status = make("span", { class: "pill" });
  const scheduled = make("p", { class: "scheduled" });
  const limits = make("dl", { class: "rows" });
  const actions = make("div", { class: "actions" });
  const heading = `app-${name}`;
  const element = make(
    "section",
    { class: "card app-card", "data-app": name, "aria-labelledby": heading },
    make("h2", { class: "eyebrow", id: heading }, `Your other application: ${titled(name)}`),
    make("p", { class: "plan-line" }, plan, status),
    scheduled,
    limits,
    actions,
  );

  /** @param {string} text @param {string} action @param {object} [parameters] */
  const offer = (text, action, parameters = {}) => {
    const button = make("button", { type: "button", "data-do": action }, text);
    button.addEventListener("click", () => void request(button, action, { app: name, ...parameters }));
    return button;
  };

  /** The actions that are possible. @param {any} state @param {string} now its status */
  const possible = (state, now) => {
    // What is bought once is active without a period: there is nothing to change or to cancel.
    const isBought = !["none", "incomplete", "canceled"].includes(now) && (now != "active" || state.period);
    const rank = isBought ? (state.plan?.rank ?? 0) : -Infinity;
    const others = plans.filter(({ key }) => !isBought || key != state.plan?.key);
    const best = plans.at(-1);
    return [
      ...others.map((each) =>
        offer(
          isBought ? `Change to ${each.name}` : `Buy ${each.name}, ${money(each.amount)} a month`,
          each.rank > rank ? "upgrade" : "downgrade",
          { plan: each.key },
        ),
      ),
      !isBought && best && offer(`Try ${best.name}`, "trial", { plan: best.key }),
      isBought && !state.scheduled && offer("Cancel at period end", "cancel"),
      state.scheduled?.action == "cancel" && offer("Keep it", "uncancel"),
    ].filter((each) => each !== false && each !== undefined);
  };

  let shown = "";
  app(topic, name).subscribe(({ state, version, status: freshness }) => {
    const isKnown = state != null || freshness == "fresh";
    // A heartbeat brings nothing new: buttons that are made anew would lose the focus.
    if (freshness == "connecting" || shown === `${version} ${isKnown}`) return;
    shown = `${version} ${isKnown}`;
    const { plan: held, status: now = "none", scheduled: coming, limits: has = {} } = state ?? {};
    element.dataset.known = String(isKnown);
    plan.textContent = !isKnown ? UNKNOWN : (held?.name ?? "Not bought");
    plan.dataset.plan = held?.key ?? "";
    status.hidden = !isKnown;
    status.dataset.status = now;
    status.textContent = STATUSES[/** @type {keyof STATUSES} */ (now)] ?? now;
    scheduled.hidden = !coming;
    if (coming) scheduled.textContent = sentence(coming, titled(name));
    fill(
      limits,
      Object.entries(has).map(([key, value]) => [titled(key), titled(String(value))]),
    );
    const hasFocus = actions.contains(document.activeElement);
    actions.replaceChildren(...(isKnown ? possible(state ?? {}, now) : []));
    if (hasFocus) actions.querySelector("button")?.focus();
  });
  return element;
};

/** Adds the cards to the page. @param {HTMLElement} page @param {{leading: string, apps: string[], offers: any[]}} sold */
export const showApplications = (page, { leading, apps, offers }) =>
  page.append(...apps.filter((name) => name != leading).map((name) => card(name, offers)));
