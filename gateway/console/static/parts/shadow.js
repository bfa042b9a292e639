/** Billing in the shadow of another entitlement system: how many tenants pages see, and what differs from that system. */
import { get } from "../api.js";
import { count, local, plural, text } from "../model/format.js";
import { inPath, toCause } from "../model/links.js";
import { shadowFacts, shadowRemark } from "../model/shadow.js";
import { card, h, keyed, line, setText, showFacts, table } from "../ui/dom.js";

const FIELD_HEADS = ["Field", "Compared", "Differing"];
const HEADS = ["Field", "Billing", "Other system"];
/** Interval of polls for the report, which reads every tenant. */
const ASK_EVERY_MS = 15_000;

/** Whether an environment has a shadow, or had one. @param {any} report */
const isWorthShowing = ({ listed, is_on, unseen, seen, compared, absent, waiting }) =>
  listed && (unseen || compared || absent || (is_on && (seen || waiting)));

/** The shadows of all environments, for the landing page; hidden where there is none. */
export const shadowCard = () => {
  const list = h("div", { class: "stack" });
  const element = card("shadows", "Shadow", list);
  element.hidden = true;
  let askedAt = 0;
  /** @type {any[]} */
  let found = [];

  const show = (/** @type {any[]} */ reports) => {
    element.hidden = !reports.length;
    keyed(
      list,
      reports,
      ({ env }) => env,
      ({ env }) =>
        h(
          "div",
          {},
          h("h3", {}, h("a", { href: toCause("shadow", { env }) }, env)),
          h("dl", { class: "facts" }),
          table(`Fields of ${env}`, FIELD_HEADS).element,
        ),
      (part, report) => {
        const [, facts, fields] = part.children;
        showFacts(facts, shadowFacts(report));
        const rows = Object.entries(report.fields);
        fields.hidden = !rows.length;
        keyed(
          fields.querySelector("tbody"),
          rows,
          ([name]) => name,
          () => line(FIELD_HEADS),
          (row, [name, of]) => {
            setText(row.children[0], name);
            setText(row.children[1], count(of.compared));
            setText(row.children[2], count(of.differing));
          },
        );
      },
    );
  };

  return {
    element,
    /** The reports of environments with a shadow. @param {string[]} envs @param {AbortSignal} signal */
    poll: async (envs, signal) => {
      if (Date.now() - askedAt >= ASK_EVERY_MS) {
        const all = await Promise.all(envs.map((env) => get("shadow", { env, limit: 1 }, signal)));
        found = all.filter(isWorthShowing);
        askedAt = Date.now();
        show(found);
      }
      return found;
    },
  };
};

/** What billing computes of one tenant, and how it differs; hidden where there is no shadow. @param {string} name of the topic */
export const tenantShadow = (name) => {
  const { element: scroll, body } = table("Differences from the other system", HEADS);
  const remark = h("p", { class: "quiet", role: "status" });
  const computed = h("pre", { tabindex: "0", "aria-label": "State that billing computes" });
  const element = card("shadow", "Shadow", remark, scroll, h("h3", {}, "What billing computes"), computed);
  element.hidden = true;
  return {
    element,
    /** Returns the answer. @param {AbortSignal} signal */
    load: async (signal) => {
      const answer = await get(`shadow/${inPath(name)}`, {}, signal);
      const isUnseen = answer.is_known && !answer.is_seen;
      element.hidden = !answer.listed || !(isUnseen || answer.answered_at);
      if (element.hidden) return answer;
      setText(remark, `${shadowRemark(answer)} ${comparedWith(answer)}`);
      scroll.hidden = !answer.differences.length;
      keyed(
        body,
        answer.differences,
        ({ field }) => field,
        () => line(HEADS),
        (row, { field, here, there }) => {
          setText(row.children[0], field);
          setText(row.children[1], text(here));
          setText(row.children[2], text(there));
        },
      );
      setText(computed, answer.computed ? JSON.stringify(answer.computed, null, 2) : "nothing");
      return answer;
    },
  };
};

/** @param {any} answer */
const comparedWith = ({ answered_at, is_absent, compared, differences, private_hidden }) => {
  if (!answered_at) return "The other system has not answered about it yet.";
  if (is_absent) return `The other system did not know it at ${local(answered_at)}.`;
  const hidden = private_hidden && differences.length ? " This login may not see the values." : "";
  return `Of ${plural(compared.length, "field")} in the other system's answer of ${local(answered_at)}, ${differences.length || "none"} ${differences.length === 1 ? "differs" : "differ"}.${hidden}`;
};
