/** The kept versions of a topic, and what differs between any two of them. */
import { get } from "./api.js";
import { h, keyed, line, moment, say, set, table } from "./dom.js";

const SHOWN = 50;
const ALL = 200;
const HEADS = ["From", "To", "Time", "Cause", "Changed", "Bytes"];
const DIFF_HEADS = ["Path", "Before", "After"];

/** @param {Record<string, string>} cause */
const causeText = (cause) => [cause.event_type, cause.event_id, cause.source && `from ${cause.source}`].filter(Boolean).join(" ");

/** @param {any} entry */
const changedText = ({ changed, paths }) => {
  if (changed == null) return "oldest kept";
  const more = changed > paths.length ? ` and ${changed - paths.length} more` : "";
  return `${paths.join(", ")}${more}`;
};

/** @param {string} name */
export const timeline = (name) => {
  const path = encodeURIComponent(name);
  const versions = table("Versions, the newest first", HEADS);
  const diff = table("What differs", DIFF_HEADS);
  const told = h("p", { class: "quiet", role: "status" });
  const none = h("p", { class: "quiet" });
  const more = h("button", { type: "button", class: "small", hidden: true }, "Show all that is kept");
  let count = SHOWN;
  /** Chosen by hand, or null to follow the newest two. @type {{from: number, to: number} | null} */
  let chosen = null;
  /** @type {any[]} */
  let entries = [];
  let shown = "";

  const pair = () => chosen ?? (entries.length > 1 ? { from: entries[1].version, to: entries[0].version } : null);

  const showDiff = async () => {
    const wanted = pair();
    diff.element.hidden = !wanted;
    const key = wanted ? `${wanted.from} ${wanted.to}` : "";
    if (key === shown) return;
    shown = key;
    if (!wanted) return say(told, "");
    try {
      const answer = await get(`diff/${path}`, wanted);
      if (shown !== key) return;
      const size = answer.differences.length;
      const text = size ? `${size}${answer.more ? " and more" : ""} difference${size > 1 ? "s" : ""}` : "No difference";
      say(told, `${text} from ${wanted.from} to ${wanted.to}.`);
      diff.element.hidden = !size;
      keyed(
        diff.body,
        answer.differences,
        (/** @type {any} */ item) => item.path,
        () => line(DIFF_HEADS),
        (row, item) => {
          const [where, before, after] = row.children;
          say(where, item.path || "/ (the whole state)");
          say(before, item.old ?? "absent");
          say(after, item.new ?? "absent");
          set(before, "class", item.old == null ? "quiet" : "removed");
          set(after, "class", item.new == null ? "quiet" : "added");
        },
      );
    } catch (error) {
      shown = "";
      diff.element.hidden = true;
      say(told, error instanceof Error ? error.message : "");
    }
  };

  const choose = (/** @type {"from" | "to"} */ end, /** @type {number} */ version) => {
    const now = pair();
    if (now) chosen = { ...now, [end]: version };
    showDiff();
  };

  const radio = (/** @type {"from" | "to"} */ end, /** @type {any} */ entry) =>
    h("input", { type: "radio", name: end, "aria-label": `Compare ${end} version ${entry.version}`, onchange: () => choose(end, entry.version) });

  /** @param {AbortSignal} [signal] */
  const load = async (signal) => {
    const answer = await get(`timeline/${path}`, { count }, signal);
    entries = answer.versions;
    if (chosen && ![chosen.from, chosen.to].every((version) => entries.some((entry) => entry.version === version))) chosen = null;
    say(none, entries.length ? "Choose two versions to compare; the newest two are compared until you do." : "The log has no version of it.");
    versions.element.hidden = !entries.length;
    more.hidden = !answer.more || count === ALL;
    const wanted = pair();
    keyed(
      versions.body,
      entries,
      (entry) => String(entry.version),
      (entry) => {
        const row = line(HEADS);
        row.children[0].append(radio("from", entry));
        row.children[1].append(radio("to", entry));
        set(row.children[2], "title", `version ${entry.version}`);
        return row;
      },
      (row, entry) => {
        const [from, to, time, cause, changed, bytes] = row.children;
        from.firstElementChild.checked = wanted?.from === entry.version;
        to.firstElementChild.checked = wanted?.to === entry.version;
        say(time, moment(entry.version));
        say(cause, causeText(entry.cause));
        say(changed, changedText(entry));
        say(bytes, entry.bytes.toLocaleString());
      },
    );
    await showDiff();
  };

  more.addEventListener("click", () => {
    count = ALL;
    load().catch((error) => say(told, error.message));
  });

  return {
    load,
    element: h(
      "section",
      { class: "card", "aria-labelledby": "timeline-head" },
      h("h2", { id: "timeline-head" }, "Timeline"),
      none,
      versions.element,
      h("div", { class: "tools" }, more),
      told,
      diff.element,
    ),
  };
};
