/** The card of what the tenant has used of its limits, and buttons that use some. */
import { meter, usage } from "../client/usage.js";
import { day, make, named } from "./format.js";
import { client, notify, tenantTopic, use } from "./session.js";

/** What a meter's buttons say and do, by its key or else by its kind: text, operation, units. */
const BUTTONS = /** @type {Record<string, [string, "consume" | "release", number][]>} */ ({
  api_calls: [["Use the API", "consume", 1], ["Use it 10 times", "consume", 10]],
  seats: [["Invite somebody", "consume", 1], ["Remove somebody", "release", 1]],
  ai: [["Ask the AI, 5 credits", "consume", 5]],
  consumable: [["Use 1", "consume", 1], ["Use 10", "consume", 10]],
  allocated: [["Take 1", "consume", 1], ["Give 1 back", "release", 1]],
  credits: [["Use 1", "consume", 1], ["Use 10", "consume", 10]],
});

/** @param {number | "unlimited" | undefined} limit */
const shownLimit = (limit) => (limit === undefined ? "…" : limit == "unlimited" ? limit : limit.toLocaleString());

/** @param {string} key @param {string} kind @returns {{element: HTMLElement, show: (shown: import("../client/usage.js").Meter) => void}} */
const row = (key, kind) => {
  const name = key == "seats" ? "Seats in use" : named(key);
  const count = make("span", { class: "count" }, "…");
  const about = make("span", { class: "quiet" });
  const bar = /** @type {HTMLProgressElement} */ (make("progress", { "aria-label": name, max: "1" }));
  const buttons = (BUTTONS[key] ?? BUTTONS[kind] ?? []).map(([text, operation, amount]) => {
    const button = make("button", { type: "button", "data-use": operation, "data-amount": String(amount) }, text);
    button.addEventListener("click", async () => {
      const answer = await use(button, key, operation, amount);
      if (answer?.allowed !== false) return;
      const left = answer.remaining === 0 ? "Nothing is left" : `Only ${answer.remaining} left`;
      notify(`${name}: ${left}. Upgrade, or buy more.`);
    });
    return button;
  });
  const element = make(
    "li",
    { "data-meter": key },
    make("p", { class: "meter-line" }, make("span", {}, name), count),
    bar,
    about,
    make("div", { class: "actions" }, ...buttons),
  );
  return {
    element,
    show: ({ used, reserved = 0, limit, status, fresh, resetsAt, grants }) => {
      element.dataset.status = status;
      element.dataset.fresh = String(fresh);
      // What is not known is not 0.
      count.textContent = used === undefined ? "…" : `${(used + reserved).toLocaleString()} of ${shownLimit(limit)}`;
      bar.hidden = typeof limit != "number";
      if (used !== undefined && typeof limit == "number") bar.value = limit ? Math.min(1, (used + reserved) / limit) : 1;
      const bought = (grants ?? []).reduce((sum, { remaining }) => sum + remaining, 0);
      const parts = [
        status == "reached" || status == "over" ? "Limit reached" : "",
        resetsAt ? `Begins anew on ${day(resetsAt)}` : "",
        bought ? `${bought.toLocaleString()} bought left` : "",
      ];
      about.textContent = parts.filter(Boolean).join(" · ");
    },
  };
};

/** Adds the card to the page once the tenant has meters. @param {HTMLElement} page */
export const showUsage = (page) => {
  const list = make("ul", { class: "rows meters" });
  const card = make(
    "section",
    { class: "card", id: "usage", "aria-labelledby": "usage-heading" },
    make("h2", { class: "eyebrow", id: "usage-heading" }, "Used so far"),
    list,
  );
  /** @type {Map<string, ReturnType<typeof row>>} */
  const rows = new Map();
  usage(client, tenantTopic).subscribe((snapshot) => {
    const meters = Object.entries(snapshot.state?.meters ?? {});
    if (meters.length && !card.isConnected) page.append(card);
    for (const [key, { kind }] of meters) {
      if (rows.has(key)) continue;
      const made = row(key, kind);
      rows.set(key, made);
      list.append(made.element);
    }
    for (const [key, { element, show }] of rows) {
      show(meter(snapshot, key));
      element.hidden = snapshot.state != null && !Object.hasOwn(snapshot.state.meters, key);
    }
  });
};
