/** The recorded differences between the topic and the provider's state. */
import { get } from "../api.js";
import { local, plural, words } from "../model/format.js";
import { environmentOf } from "../model/links.js";
import { card, h, keyed, line, setText, table } from "../ui/dom.js";

const HEADS = ["Time", "Kind", "Why", "Here", "There", "Repaired by"];

/** A topic's differences from the provider. @param {string} name of the topic */
export const drift = (name) => {
  const { element: scroll, body } = table("Drift", HEADS);
  const message = h("p", { class: "quiet", role: "status" });
  const [env] = environmentOf(name);
  return {
    element: card("drift", "Drift", message, scroll),
    /** @param {AbortSignal} signal */
    load: async (signal) => {
      const answer = await get("drift", { env, topic: name, limit: 50 }, signal);
      const found = answer.drift ?? [];
      setText(
        message,
        !answer.listed
          ? "The process that answers takes no webhooks: it cannot tell."
          : found.length
            ? `${plural(found.length, "record")}. What differed was repaired when it was found, except what was billed, and what another system says.`
            : "It was never found to differ from what the provider says.",
      );
      scroll.hidden = !found.length;
      keyed(
        body,
        found,
        (/** @type {any} */ entry) => JSON.stringify([entry.at, entry.kind, entry.subject]),
        () => line(HEADS),
        (row, entry) => {
          const [time, kind, why, here, there, repaired] = row.children;
          setText(time, local(entry.at));
          setText(kind, [entry.kind, entry.subject].filter(Boolean).join(" "));
          setText(why, entry.why);
          setText(here, words(entry.here));
          setText(there, words(entry.there));
          setText(repaired, entry.version ?? "");
        },
      );
    },
  };
};
