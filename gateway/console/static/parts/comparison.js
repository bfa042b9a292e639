/** Compares three copies of the plan: the provider's last report, the stored state, and the slowest tab's state. */
import { get, ApiError } from "../api.js";
import { ago, plain, plural, span, us } from "../model/format.js";
import { inPath } from "../model/links.js";
import { button, card, h, keyed, line, setAttribute, setText, table } from "../ui/dom.js";
import { pill, setStatus } from "../ui/pill.js";

const HEADS = ["", "Provider", "Store", "Slowest tab"];

/**
 * An object's leaves by path, as text; a list is one leaf.
 * @param {unknown} value @param {string} [path] @param {Map<string, string>} [found]
 */
export const leaves = (value, path = "", found = new Map()) => {
  if (value && typeof value === "object" && !Array.isArray(value)) {
    for (const [name, item] of Object.entries(value)) leaves(item, path ? `${path}.${name}` : name, found);
  } else if (path) found.set(path, plain(value));
  return found;
};

/** All paths, and whether the sides with a value differ there; differing paths come first. @param {Map<string, string>[]} sides */
export const rows = (sides) => {
  const paths = [...new Set(sides.flatMap((side) => [...side.keys()]))];
  const all = paths.map((path) => {
    const values = sides.map((side) => side.get(path) ?? null);
    return { path, values, differs: new Set(values.filter((value) => value != null)).size > 1 };
  });
  return all.sort((one, other) => Number(other.differs) - Number(one.differs));
};

/**
 * The leaves of each side, with common names.
 * @param {any} answer of `status/TOPIC` @param {unknown} stored the newest state @param {unknown} shown a tab's state
 */
const sidesOf = ({ provider, store }, stored, shown) => {
  const reported = Object.entries(provider?.subscriptions ?? {}).map(([key, { subscription }]) => [key, subscription]);
  return [
    leaves(Object.fromEntries(reported)),
    new Map([...leaves(store?.subscriptions ?? {}), ...leaves(store?.state ?? stored ?? {})]),
    leaves(shown ?? {}),
  ];
};

/** Remarks on the sides. @param {any} answer of `status/TOPIC` */
const remarks = ({ listed, provider, tabs, problem }) => {
  const asked = Object.values(provider?.subscriptions ?? {}).map(({ asked_at }) => us(asked_at));
  const { newest_acked: newest, oldest_acked: oldest } = tabs ?? {};
  return [
    !listed && "The process that answers takes no webhooks, or it is no tenant: nothing is known of the provider.",
    problem?.detail && `${problem.detail}.`,
    provider && !provider.can_be_asked && "The provider cannot be asked: no API key is set.",
    provider &&
      (asked.length
        ? `The provider was last heard ${ago(Date.now() / 1000 - Math.min(...asked) / 1e6)}.`
        : "The provider was never asked about it; Reconcile asks."),
    oldest === 0 && "A tab has acknowledged nothing yet.",
    newest &&
      oldest &&
      newest > oldest &&
      `The slowest tab shows a version ${span((newest - oldest) / 1e6)} older than the fastest.`,
  ]
    .filter(Boolean)
    .join(" ");
};

/** The table of provider, store and slowest tab. @param {string} name of the topic */
export const comparison = (name) => {
  const { element: scroll, body } = table("Provider, store and tabs", HEADS);
  const state = pill();
  const message = h("p", { class: "quiet", role: "status" });
  const path = inPath(name);

  const show = (/** @type {any} */ answer, /** @type {unknown} */ stored, /** @type {unknown} */ shown) => {
    const found = rows(sidesOf(answer, stored, shown));
    const differing = found.filter(({ differs }) => differs).length;
    if (differing)
      setStatus(state, plural(differing, "difference"), "Where the sides differ, the row is marked.", "amber");
    else setStatus(state, "no difference", "No two sides differ in what both have.", "NONE");
    setText(message, remarks(answer));
    scroll.hidden = !found.length;
    keyed(
      body,
      found,
      ({ path: where }) => where,
      () => line(HEADS),
      (row, { path: where, values, differs }) => {
        setAttribute(row, "class", differs ? "found" : null);
        setText(row.children[0], where);
        values.forEach((value, index) => {
          setText(row.children[index + 1], value ?? "–");
          setAttribute(row.children[index + 1], "class", value == null ? "quiet" : null);
        });
      },
    );
    return differing;
  };

  /** A version's state, or null if it is no longer stored. @param {number | undefined} version @param {AbortSignal} [signal] */
  const stateOf = async (version, signal) => {
    try {
      return JSON.parse((await get(`snapshot/${path}`, { version }, signal)).state);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return null;
      throw error;
    }
  };

  /** How many rows differ. @param {AbortSignal} [signal] */
  const load = async (signal) => {
    const [answer, stored] = await Promise.all([get(`status/${path}`, {}, signal), stateOf(undefined, signal)]);
    const oldest = answer.tabs?.oldest_acked;
    return show(answer, stored, oldest ? await stateOf(oldest, signal) : null);
  };

  const again = () => void load().catch((error) => setText(message, error.message));
  return {
    element: card(
      "sides",
      "Provider, store and tabs",
      h("div", { class: "tools" }, state, button("Compare again", again)),
      message,
      scroll,
    ),
    load,
  };
};
