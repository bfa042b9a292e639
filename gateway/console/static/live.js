/**
 * What all gateways report, as it changes: one report of each gateway, and one more of each for a topic that is looked at.
 *
 * The reports are topics like any other, read with the project's own browser client. Gateways make them only while
 * somebody says every few seconds that he looks, so nothing is reported for a page that nobody sees.
 */
import { planwire } from "../client/planwire.js";
import { gateway, post } from "./api.js";

const RENEW_MS = 3000;

/** Runs `draw` once in the next frame, however often it is asked for. @param {() => void} draw */
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
 * The reports of all gateways, kept current while the page is seen.
 * @param {() => void} changed called in an animation frame, after something has changed
 * @param {(error: unknown) => void} failed called when the gateway refuses or does not answer
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
    /** Says which topics are looked at from now on. @param {string[]} names */
    look: (names) => {
      topics = names;
      look();
    },
    /** Stops, as at a logout. */
    stop: () => {
      clearTimeout(timer);
      turn++;
    },
    /** Every gateway that is known, with its newest report; `report` is null until the first. */
    gateways: () =>
      answer.gateways.map((/** @type {any} */ each) => ({
        name: /** @type {string} */ (each.gateway),
        isSilent: Boolean(each.is_silent),
        age_s: each.age_s + (Date.now() - answeredAt) / 1000,
        report: report(each.report)?.state ?? null,
      })),
    /** The reports of a topic that is looked at, by gateway. @param {string} topic @returns {Map<string, any>} */
    watched: (topic) => {
      const found = Object.entries(answer.watched[topic] ?? {}).map(([each, name]) => [each, report(name)?.state]);
      return new Map(/** @type {[string, any][]} */ (found.filter(([, state]) => state)));
    },
    /** What the client says of the stream: the worst of all reports, `connecting` before there is one. */
    status: () => {
      const all = [...held.values()].map(({ snapshot }) => snapshot?.status ?? "connecting");
      return (
        ["denied", "offline", "stale", "connecting"].find((status) => all.includes(status)) ??
        (all.length ? "fresh" : "connecting")
      );
    },
  };
};
