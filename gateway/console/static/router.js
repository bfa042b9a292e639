/** The page's routes: `#/`, `#/topics/NAME`, `#/why/KIND`, each with a query. */
import { tail } from "./model/links.js";
import { nameOf } from "./model/topic_name.js";

/** @typedef {{view: "landing" | "topic" | "cause", name: string, query: URLSearchParams}} Place */

/** The place in a link. @param {string} hash @returns {Place | null} null: the link is invalid */
export const parse = (hash) => {
  const [path, query = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const match = /^\/?(?:(topics|why)\/(.+))?$/.exec(path);
  if (!match) return null;
  const [, kind, name = ""] = match;
  try {
    // A link's name may be encoded as a whole, or in its readable form.
    const topic = () => (name.includes(":") ? name.replace(/^([\w-]+)%2F/i, "$1/") : decodeURIComponent(name));
    return {
      view: kind === "topics" ? "topic" : kind === "why" ? "cause" : "landing",
      name: kind === "topics" ? (nameOf(topic()) ?? topic()) : decodeURIComponent(name),
      query: new URLSearchParams(query),
    };
  } catch {
    return null;
  }
};

/** Writes a view's choices into the link, without navigation. @param {Record<string, any>} changes */
export const updateQuery = (changes) => {
  const [path, query = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  const now = Object.fromEntries(new URLSearchParams(query));
  history.replaceState(null, "", `#${path || "/"}${tail({ ...now, ...changes })}`);
};
