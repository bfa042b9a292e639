/** All tabs of a topic, the worst first, with their versions, due acks and actions. The list may have any length. */
import { fault, revoke } from "../actions.js";
import { coarse, count, moment, span } from "../model/format.js";
import { reasonOf } from "../model/topic_model.js";
import { button, h, setAttribute, setText, showFacts } from "../ui/dom.js";
import { pill, setTabStatus } from "../ui/pill.js";
import { virtual } from "../ui/virtual.js";

/** @typedef {import("../model/topic_model.js").Tab} Tab */

const HEADS = ["State", "Subject", "Client", "Acked", "Lag", "Buffered", "Open for", "Gateway", "Why"];

/** How far an acked version is behind the newest. @param {number | undefined} acked @param {number} newest */
const ackedText = (acked, newest) =>
  !acked ? "none" : acked >= newest ? "newest" : `${span((newest - acked) / 1e6)} older`;

/**
 * The list of a topic's tabs, the worst first.
 * @param {import("../app.js").Context} context
 * @param {string} topic
 * @param {() => void} want
 */
export const tabList = (context, topic, want) => {
  let newest = 0;
  /** @type {{tab: Tab, update: (tab: Tab) => void} | null} */
  let opened = null;

  const factsOf = (/** @type {Tab} */ tab) => {
    /** @type {[string, string][]} */
    const facts = [
      ["why", reasonOf(tab)],
      ["subject", tab.sub],
      ["client", tab.client],
      ["session", tab.session],
      ["gateway", tab.gateway],
      ["newest version", String(newest)],
      ["sent version", tab.sent ? String(tab.sent) : "none"],
      ["acked version", tab.acked ? `${tab.acked} (${ackedText(tab.acked, newest)})` : "none"],
      ["refused version", tab.nacked ? String(tab.nacked) : ""],
      ["has owed its answer for", tab.lag_ms == null ? "" : span(tab.lag_ms / 1000)],
      ["not drained", tab.blocked || tab.buffered_bytes ? `${count(tab.buffered_bytes ?? 0)} bytes` : ""],
      ["open since", moment(tab.since * 1e6)],
    ];
    return facts.filter(([, value]) => value);
  };

  /** Opens the details of a tab, which are updated while they are open. @param {Tab} tab */
  const open = (tab) => {
    const state = pill();
    const facts = h("dl", { class: "facts" });
    const { session } = context;
    const dialog = /** @type {HTMLDialogElement} */ (
      h(
        "dialog",
        { class: "card", "aria-labelledby": "tab-head" },
        h("h2", { id: "tab-head" }, "Tab ", state),
        facts,
        h(
          "div",
          { class: "tools end" },
          ...(session.dev
            ? [
                context.may(
                  "drop",
                  button("Harm the socket…", () => fault(context, opened?.tab ?? tab)),
                ),
              ]
            : []),
          context.may(
            "revoke",
            button("Revoke…", () => revoke(context, topic, tab.sub)),
          ),
          button("Close", () => dialog.close(), { autofocus: true }),
        ),
      )
    );
    const update = (/** @type {Tab} */ now) => {
      setTabStatus(state, now.status, reasonOf(now));
      showFacts(facts, factsOf(now));
    };
    dialog.addEventListener("close", () => {
      dialog.remove();
      opened = null;
      list.element.focus({ preventScroll: true });
    });
    opened = { tab, update };
    update(tab);
    document.body.append(dialog);
    dialog.showModal();
  };

  const list = virtual({
    label: "Tabs",
    kind: "tabs",
    heads: HEADS,
    make: () => [
      h("span", {}, pill(false)),
      h("span", {}, h("button", { type: "button", class: "plain", tabindex: "-1", onclick: () => {} })),
      ...HEADS.slice(2).map(() => h("span")),
    ],
    update: (row, /** @type {Tab | null} */ tab, [state, sub, client, acked, lag, buffered, since, gateway, why]) => {
      if (!tab) return;
      const reason = reasonOf(tab);
      const name = /** @type {HTMLButtonElement} */ (sub.firstElementChild);
      setTabStatus(/** @type {Element} */ (state.firstElementChild), tab.status, reason);
      setText(name, tab.sub || "unnamed");
      setAttribute(name, "title", `${tab.session}: all that is known of it`);
      name.onclick = () => open(tab);
      setText(client, tab.client);
      setAttribute(client, "title", tab.client);
      setText(acked, ackedText(tab.acked, newest));
      setAttribute(acked, "title", tab.acked ? `version ${tab.acked}` : null);
      setText(lag, tab.lag_ms == null ? "" : span(tab.lag_ms / 1000));
      setText(buffered, tab.blocked || tab.buffered_bytes ? `${count(tab.buffered_bytes ?? 0)} B` : "");
      setText(since, coarse(Date.now() / 1000 - tab.since));
      setAttribute(since, "title", `since ${moment(tab.since * 1e6)}`);
      setText(gateway, tab.gateway);
      setText(why, tab.status === "SYNCED" ? "" : reason);
      setAttribute(why, "data-why", tab.status === "SYNCED" ? null : reason);
    },
    open,
    want,
  });

  return {
    list,
    seen: list.seen,
    /** @param {import("../model/topic_model.js").Model} model */
    show: (model) => {
      newest = model.committed.version;
      list.hold(model.total, model.from, model.tabs);
      const now = opened && model.tabs.find(({ session }) => session === opened?.tab.session);
      if (opened && now) {
        opened.tab = now;
        opened.update(now);
      }
      list.element.hidden = !model.total;
    },
  };
};
