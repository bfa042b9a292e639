/** Where the page is, as its link says it: `#/`, `#/topics/NAME`, `#/why/KIND`, each with a query. Pure but for `go`. */

/** @typedef {{view: "landing" | "topic" | "why", name: string, query: URLSearchParams}} Place */

/** @param {string} hash @returns {Place | null} null: it names nothing */
export const parse = (hash) => {
  const [path, query = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const match = /^\/?(?:(topics|why)\/(.+))?$/.exec(path);
  if (!match) return null;
  const [, kind, name = ""] = match;
  try {
    return {
      view: kind === "topics" ? "topic" : kind === "why" ? "why" : "landing",
      name: decodeURIComponent(name),
      query: new URLSearchParams(query),
    };
  } catch {
    return null;
  }
};

/** @param {Record<string, any>} query */
const tail = (query) => {
  const given = Object.entries(query).filter(([, value]) => value != null && value !== "" && value !== false);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text && `?${text}`;
};

/** @param {Record<string, any>} [query] */
export const toLanding = (query = {}) => `#/${tail(query)}`;

/** A topic's name is readable in its link: a colon and an at sign need no escape there. @param {string} name @param {Record<string, any>} [query] */
export const toTopic = (name, query = {}) =>
  `#/topics/${encodeURIComponent(name).replaceAll("%3A", ":").replaceAll("%40", "@")}${tail(query)}`;

/** @param {string} kind @param {Record<string, any>} [query] */
export const toWhy = (kind, query = {}) => `#/why/${encodeURIComponent(kind)}${tail(query)}`;

/** A topic's environment, and the name it has in live. @param {string} topic @returns {[string, string]} */
export const environmentOf = (topic) => {
  const [, env = "live", bare] = /** @type {RegExpExecArray} */ (/^(?:([^/]*)\/)?(.*)$/s.exec(topic));
  return [env, bare];
};

/** Puts a view's own choices into the link without going anywhere. @param {Record<string, any>} changes */
export const note = (changes) => {
  const [path, query = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  const now = Object.fromEntries(new URLSearchParams(query));
  history.replaceState(null, "", `#${path || "/"}${tail({ ...now, ...changes })}`);
};
