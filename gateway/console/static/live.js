/**
 * The gateways' reports, kept current: one per gateway, and one more per gateway for each topic shown.
 *
 * Reports are ordinary topics, read with the project's own browser client. The page renews a lease every few seconds while
 * it is visible, and gateways report only while there is a lease.
 */
import { planwire } from "../client/planwire.js";
import { gateway, post } from "./api.js";

const RENEW_MS = 3000;

/** Returns a function that runs `draw` once in the next frame; repeated calls are merged. @param {() => void} draw */
const batched = (draw) => {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      draw();
    });
  };
};

/**
 * The reports of all gateways, kept current while the page is visible.
 * @param {() => void} changed called in an animation frame, after something has changed
 * @param {(error: unknown) => void} failed called when a request fails
 */
export const live = (changed, failed) => {
  const client = planwire({ url: gateway, token: async () => (await post("api/token", {})).token });
  const redraw = batched(changed);
  /** @type {Map<string, {topic: any, snapshot: any}>} by the report's name */
  const held = new Map();
  /** @type {string[]} */
  let topics = [];
  /** @type {{gateways: any[], watched: Record<string, Record<string, string>>}} */
  let answer = { gateways: [], watched: {} };
  let answeredAt = 0;
  /** @type {number | undefined} */
  let timer;
  let turn = 0;

  const hold = (/** @type {Set<string>} */ names) => {
    for (const name of names) {
      if (held.has(name)) continue;
      const entry = { topic: client.topic(name), snapshot: /** @type {any} */ (null) };
      held.set(name, entry);
      entry.topic.subscribe((/** @type {any} */ snapshot) => {
        entry.snapshot = snapshot;
        redraw();
      });
    }
    for (const [name, entry] of held) {
      if (names.has(name)) continue;
      held.delete(name);
      entry.topic.close();
    }
  };

  const look = async () => {
    clearTimeout(timer);
    const mine = ++turn;
    if (document.hidden) return;
    try {
      const found = await post("api/look", { topics });
      if (mine !== turn) return;
      answer = found;
      answeredAt = Date.now();
      hold(
        new Set([
          ...answer.gateways.map((/** @type {any} */ each) => each.report),
          ...Object.values(answer.watched).flatMap(Object.values),
        ]),
      );
      redraw();
    } catch (error) {
      if (mine !== turn) return;
      failed(error);
    }
    timer = setTimeout(look, /** @type {any} */ (answer).renew_ms ?? RENEW_MS);
  };

  document.addEventListener("visibilitychange", look);

  const report = (/** @type {string} */ name) => held.get(name)?.snapshot;

  return {
    /** Sets the topics shown from now on. @param {string[]} names */
    look: (names) => {
      topics = names;
      look();
    },
    /** Stops, for example at a logout. */
    stop: () => {
      clearTimeout(timer);
      turn++;
    },
    /** Every known gateway with its newest report; `report` is null before the first. */
    gateways: () =>
      answer.gateways.map((/** @type {any} */ each) => ({
        name: /** @type {string} */ (each.gateway),
        isSilent: Boolean(each.is_silent),
        age_s: each.age_s + (Date.now() - answeredAt) / 1000,
        report: report(each.report)?.state ?? null,
      })),
    /** The reports on a shown topic, by gateway. @param {string} topic @returns {Map<string, any>} */
    watched: (topic) => {
      const found = Object.entries(answer.watched[topic] ?? {}).map(([each, name]) => [each, report(name)?.state]);
      return new Map(/** @type {[string, any][]} */ (found.filter(([, state]) => state)));
    },
    /** The status of the stream: the worst status of all reports, or `connecting` without reports. */
    status: () => {
      const all = [...held.values()].map(({ snapshot }) => snapshot?.status ?? "connecting");
      return (
        ["denied", "offline", "stale", "connecting"].find((status) => all.includes(status)) ??
        (all.length ? "fresh" : "connecting")
      );
    },
  };
};
