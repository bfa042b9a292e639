/** The chain of one topic: occurred, received, committed, gateways, tabs. Steps that are behind are highlighted. */
import { ago, local, moment, plural, span, us } from "../model/format.js";
import { EXPLAINED, worst } from "../model/status.js";
import { h, keyed, setAttribute, setText, showFacts } from "../ui/dom.js";
import { pill, setStatus, setTabStatus } from "../ui/pill.js";

/** @typedef {import("../model/topic_model.js").Model} Model */

const station = (/** @type {string} */ id, /** @type {string} */ title) => {
  const state = pill();
  const why = h("p", { class: "quiet" });
  const facts = h("dl", { class: "facts" });
  return { state, why, facts, element: h("li", { id, class: "card" }, h("h3", {}, title, state), why, facts) };
};

/** The time between two instants, signed for people. @param {number} from @param {number} to microseconds */
const delta = (from, to) => {
  if (Number.isNaN(from) || Number.isNaN(to)) return "";
  return to >= from ? `+${span((to - from) / 1e6)}` : `${span((from - to) / 1e6)} before`;
};

/** Shows a step that has only a time. @param {any} step @param {string} instant @param {string} after @param {string} why @param {[string, string][]} facts */
const showStep = ({ state, why: text, facts: list }, instant, after, why, facts) => {
  setStatus(state, after || (instant ? "reported" : "not reported"), why, "NONE");
  setText(text, instant ? local(instant) : "The cause says nothing of it.");
  showFacts(list, facts);
};

/** The chain of steps. */
export const chain = () => {
  const occurred = station("occurred", "Occurred");
  const received = station("received", "Received");
  const committed = station("committed", "Committed");
  const gateways = station("here", "Gateways");
  const list = h("ul", { class: "gateways" });
  gateways.facts.replaceWith(list);
  const tabs = station("tabs-sum", "Tabs");

  /** @param {Model} model */
  const showCause = ({ committed: { version, cause, age_s } }) => {
    const { occurred_at = "", received_at = "", source = "", event_type = "", event_id = "", ...more } = cause;
    /** @param {[string, string][]} facts */
    const known = (facts) => facts.filter(([, value]) => value);
    showStep(
      occurred,
      occurred_at,
      "",
      "When the provider says that it happened.",
      known([
        ["source", source],
        ["event", event_type],
        ["event id", event_id],
      ]),
    );
    showStep(
      received,
      received_at,
      delta(us(occurred_at), us(received_at)),
      "When the webhook came in, and how long after it happened.",
      known(Object.entries(more).map(([name, value]) => [name, local(value)])),
    );
    setStatus(
      committed.state,
      version ? delta(us(received_at), version) || ago(age_s) : "no state",
      version
        ? "The newest version, and how long after the event came in."
        : "Nothing was ever committed, or it has expired.",
      "NONE",
    );
    setText(committed.why, version ? moment(version) : "Nothing was ever committed, or it has expired.");
    showFacts(
      committed.facts,
      version
        ? [
            ["version", String(version)],
            ["age", ago(age_s)],
          ]
        : [],
    );
  };

  /** @param {Model} model */
  const showGateways = (model) => {
    const state = worst(Object.fromEntries(model.gateways.map(({ status }) => [status, 1])));
    const silent = model.gateways.filter(({ status }) => status === "SILENT").length;
    if (silent)
      setStatus(
        gateways.state,
        "SILENT",
        `${plural(silent, "gateway")} did not answer: what the tabs there show is not known.`,
        "red",
      );
    else if (model.gateways.length)
      setTabStatus(gateways.state, state, model.gateways.find(({ status }) => status === state)?.why);
    else setStatus(gateways.state, "not live", "No gateway holds it: no tab shows it now.", "NONE");
    const holding = model.gateways.length - silent;
    const held = holding ? `${plural(holding, "gateway")} with tabs of it` : "No gateway is known to hold it.";
    setText(gateways.why, silent ? `${held}; of ${silent} it is not known` : held);
    keyed(
      list,
      model.gateways,
      ({ gateway }) => gateway,
      ({ gateway }) => h("li", {}, h("span", {}, gateway), pill(), h("span", { class: "quiet" })),
      (item, { status, why, version, sockets, watchers }) => {
        const [, word, detail] = item.children;
        setStatus(word, status, why, status === "SILENT" ? "red" : status);
        const behind = model.committed.version - (version ?? 0);
        const has =
          status === "SILENT"
            ? ""
            : version
              ? behind > 0
                ? `${span(behind / 1e6)} older`
                : "newest version"
              : "no version";
        const read = watchers ? plural(watchers, "event stream or wait", "event streams or waits") : "";
        setText(
          detail,
          [has, sockets != null && plural(sockets, "tab"), read, status !== "SYNCED" && why]
            .filter(Boolean)
            .join(" · "),
        );
        setAttribute(item, "data-gateway", status);
      },
    );
  };

  /** @param {Model} model */
  const showTabs = ({ counts, total, uncounted }) => {
    const state = worst(counts);
    setTabStatus(tabs.state, state);
    setText(tabs.why, state ? EXPLAINED[state] : "No tab is connected to it.");
    const found = Object.keys(EXPLAINED).filter((status) => counts[status]);
    const facts = found.map((status) => /** @type {[string, string]} */ ([status, String(counts[status])]));
    showFacts(tabs.facts, [
      ...facts,
      ...(total > 1 && found.length > 1 ? [/** @type {[string, string]} */ (["all", String(total)])] : []),
      ...(uncounted ? [/** @type {[string, string]} */ (["not looked at", String(uncounted)])] : []),
    ]);
  };

  return {
    element: h(
      "ol",
      { id: "chain", class: "chain", tabindex: "-1", "aria-label": "From the cause to the tabs" },
      occurred.element,
      received.element,
      committed.element,
      gateways.element,
      tabs.element,
    ),
    /** @param {Model} model */
    show: (model) => {
      showCause(model);
      showGateways(model);
      showTabs(model);
    },
  };
};
