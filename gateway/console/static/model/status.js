/** The states of tabs and gateways, and what they mean. Pure. */

/** The explanation of each state, the worst first. */
export const EXPLAINED = {
  NACKED: "The page received the newest version and could not use it.",
  BEHIND: "It does not show the newest version, or has not said so in time.",
  STALE: "It has what its gateway has, but that is not proved to be the newest.",
  SENT: "The newest version was sent, and no answer is due: it was just sent, or the audience is a crowd.",
  SYNCED: "The tab has said that it shows the newest version.",
};

/** @typedef {keyof EXPLAINED} Status */

/** The states in which a tab needs attention. @type {Status[]} */
export const TROUBLE = ["NACKED", "BEHIND", "STALE"];

/** The worst status that occurs, or null. @param {Record<string, number>} counts @returns {Status | null} */
export const worst = (counts) =>
  /** @type {Status[]} */ (Object.keys(EXPLAINED)).find((status) => counts[status]) ?? null;
