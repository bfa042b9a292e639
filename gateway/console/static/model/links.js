/** Links to the views of the page, and the parts of a topic's name. Pure. */

/** The query of a link, with its question mark; members without a value are omitted. @param {Record<string, any>} query */
export const tail = (query) => {
  const given = Object.entries(query).filter(([, value]) => value != null && value !== "" && value !== false);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text && `?${text}`;
};

/** The link to the landing page. @param {Record<string, any>} [query] */
export const toLanding = (query = {}) => `#/${tail(query)}`;

/** A topic's name for the path of a URL. Its id is encoded already. @param {string} name */
export const inPath = (name) =>
  encodeURIComponent(name).replaceAll("%3A", ":").replaceAll("%40", "@").replaceAll("%25", "%");

/** The link to a topic. @param {string} name @param {Record<string, any>} [query] */
export const toTopic = (name, query = {}) => `#/topics/${inPath(name)}${tail(query)}`;

/** The link to the explanation of a cause. @param {string} kind @param {Record<string, any>} [query] */
export const toCause = (kind, query = {}) => `#/why/${encodeURIComponent(kind)}${tail(query)}`;

/** A topic's environment, and its name without the environment. @param {string} topic @returns {[string, string]} */
export const environmentOf = (topic) => {
  const [, env = "live", bare] = /** @type {RegExpExecArray} */ (/^(?:([^/]*)\/)?(.*)$/s.exec(topic));
  return [env, bare];
};
