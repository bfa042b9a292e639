/** All topics, with search and live status. Only the visible rows are requested and drawn. */
import { get } from "../api.js";
import { ago, count, plural } from "../model/format.js";
import { toTopic } from "../model/links.js";
import { TROUBLE } from "../model/status.js";
import { nameOf, readable } from "../model/topic_name.js";
import { updateQuery } from "../router.js";
import { h, setAttribute, setText } from "../ui/dom.js";
import { pill, setTabStatus } from "../ui/pill.js";
import { virtual } from "../ui/virtual.js";

const PAGE = 500;

const FILTERS = [
  ["", "All"],
  ["live", "With tabs"],
  ["trouble", "With trouble"],
];

/**
 * The list of topics, with its search.
 * @param {URLSearchParams} query of the place
 * @param {() => void} soon asks for a poll now
 */
export const topicList = (query, soon) => {
  const search = /** @type {HTMLInputElement} */ (
    h("input", {
      type: "search",
      id: "search",
      value: query.get("search") ?? "",
      placeholder: "Search topics, or write a whole name ( / )",
      autocomplete: "off",
      spellcheck: "false",
      "aria-label": "Search topics",
    })
  );
  const only = /** @type {HTMLSelectElement} */ (
    h(
      "select",
      { id: "only", "aria-label": "Which topics" },
      ...FILTERS.map(([value, text]) => h("option", { value, selected: value === (query.get("only") ?? "") }, text)),
    )
  );
  const found = h("p", { class: "quiet", role: "status" });
  const opens = h("p", { hidden: true });
  /** @type {string[]} the names in order, as far as they are known without a gap */
  let names = [];
  let total = 0;

  const list = virtual({
    label: "Topics",
    kind: "topics",
    heads: ["Topic", "State", "Tabs", "Changed", "Sockets", "Gateways"],
    make: () => [
      h("span", {}, h("a", { tabindex: "-1" })),
      h("span", {}, pill(false)),
      h("span"),
      h("span"),
      h("span"),
      h("span"),
    ],
    update: (row, topic, [name, status, tabs, age, sockets, gateways]) => {
      const link = /** @type {Element} */ (name.firstElementChild);
      setText(link, topic && readable(topic.name));
      setAttribute(link, "title", topic && topic.name);
      setAttribute(link, "href", topic && toTopic(topic.name));
      if (!topic) return;
      setTabStatus(/** @type {Element} */ (status.firstElementChild), topic.is_live ? topic.status : null);
      const bad = TROUBLE.filter((each) => topic.tabs[each]).map((each) => `${topic.tabs[each]} ${each.toLowerCase()}`);
      setText(tabs, bad.join(", ") || (topic.sockets ? plural(topic.sockets, "tab") : ""));
      setText(age, topic.version ? ago(topic.age_s) : "no state");
      setAttribute(age, "title", topic.version ? `version ${topic.version}` : null);
      setText(sockets, topic.sockets ? count(topic.sockets) : "");
      setText(gateways, topic.gateways || "");
    },
    open: (topic) => (location.hash = toTopic(topic.name)),
    want: soon,
  });

  const restart = () => {
    updateQuery({ search: search.value.trim(), only: only.value });
    names = [];
    list.rewind();
    soon();
  };
  search.addEventListener("input", restart);
  only.addEventListener("change", restart);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      const wanted = nameOf(search.value.trim());
      if (wanted) location.hash = toTopic(wanted);
      else if (names.length) location.hash = toTopic(names[0]);
    } else if (event.key === "ArrowDown") list.move(0);
    else return;
    event.preventDefault();
  });

  const page = (/** @type {number} */ from, /** @type {number} */ limit, /** @type {AbortSignal} */ signal) =>
    get("topics", { search: search.value.trim(), only: only.value, after: from ? names[from - 1] : "", limit }, signal);

  /** Fetches names until all before `index` are known, because a page is requested by the name before it. */
  const walk = async (/** @type {number} */ index, /** @type {AbortSignal} */ signal) => {
    while (names.length < index) {
      const from = names.length;
      const answer = await page(from, PAGE, signal);
      names.push(...answer.topics.map((/** @type {any} */ topic) => topic.name));
      if (answer.next == null) return;
    }
  };

  const showCounts = (/** @type {any} */ answer) => {
    const stored = answer.stored == null ? "" : `, ${count(answer.live)} with tabs`;
    setText(
      found,
      `${plural(answer.matching, "topic")}${search.value.trim() || only.value ? " found" : ""}${stored}${answer.is_complete === false ? "; the store has more than are looked through" : ""}`,
    );
    // A topic that is not in the list can be opened by its name, too.
    const wanted = nameOf(search.value.trim());
    const isName = wanted && !answer.topics.some((/** @type {any} */ topic) => topic.name === wanted);
    opens.hidden = !isName;
    if (isName)
      opens.replaceChildren(
        "Not among them: ",
        h("a", { href: toTopic(wanted) }, `see what the store has of ${readable(wanted)}`),
        ".",
      );
    list.element.hidden = !answer.matching;
  };

  return {
    element: h(
      "div",
      { class: "stack" },
      h("div", { class: "tools search" }, search, only),
      found,
      opens,
      list.element,
    ),
    list,
    focus: () => search.select(),
    only: (/** @type {string} */ value) => {
      only.value = only.value === value ? "" : value;
      restart();
    },
    /** Requests the visible rows. @param {AbortSignal} signal */
    poll: async (signal) => {
      const { from, to } = list.seen();
      await walk(from, signal);
      const start = Math.min(from, names.length);
      const answer = await page(start, Math.min(PAGE, Math.max(50, to - from)), signal);
      if (answer.matching !== total) names.length = start;
      total = answer.matching;
      answer.topics.forEach((/** @type {any} */ topic, /** @type {number} */ index) => {
        if (start + index <= names.length) names[start + index] = topic.name;
      });
      list.hold(total, start, answer.topics);
      showCounts(answer);
    },
  };
};
