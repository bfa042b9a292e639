/** The shadow in words: the facts of a report, and where a tenant is. Pure. */
import { count, plural } from "./format.js";

/** The names and values of a report. @param {any} report @returns {[string, string][]} */
export const shadowFacts = ({
  is_on,
  unseen,
  seen,
  share,
  switched,
  switched_back,
  compared,
  differing,
  absent,
  not_compared,
  waiting,
  problem,
}) => {
  const named = [switched.length && `${switched.length} by name`, switched_back.length && `${switched_back.length} back by name`];
  const left = [absent && `${count(absent)} unknown there`, not_compared && `${count(not_compared)} with none of the fields`];
  return /** @type {[string, string][]} */ (
    [
      ["new tenants", is_on ? "go into the shadow" : "are seen at once"],
      ["unseen", plural(unseen, "tenant")],
      ["seen", plural(seen, "tenant")],
      ["switched", [`${share} % of all`, ...named].filter(Boolean).join(", ")],
      ["compared", [count(compared), ...left].filter(Boolean).join(", ")],
      ["differing", count(differing)],
      ["waiting", waiting && count(waiting)],
      ["failing", problem && `${problem.topic}: ${problem.reason}`],
    ].filter(([, text]) => text)
  );
};

/** Where a tenant is. @param {any} answer of `shadow/TOPIC` */
export const shadowRemark = ({ is_known, is_seen, is_switched }) =>
  is_seen
    ? "Pages see what billing computes."
    : is_known
      ? "It is in the shadow: pages do not see what billing computes, until it is switched."
      : `Billing does not know it: what everybody has is compared. Its first event makes it ${is_switched ? "seen" : "unseen"}.`;
