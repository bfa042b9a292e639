/** Requests to the gateway: each returns JSON, or throws an error with status and code. */

/** The gateway's address, with any path prefix of a proxy: this module is its `/console/api.js`. */
export const gateway = new URL("..", import.meta.url).href.slice(0, -1);

/** `status` 0: there was no answer. */
export class ApiError extends Error {
  /** @param {number} status @param {string} code @param {string} detail */
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

/** @param {string} path @param {RequestInit} options */
const send = async (path, options) => {
  try {
    return await fetch(`${gateway}/console/${path}`, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "the gateway does not answer");
  }
};

/** @param {string} path @param {RequestInit} options @returns {Promise<any>} */
const ask = async (path, options) => {
  const response = await send(path, options);
  if (response.status === 204) return null;
  const answer = await response.json().catch((error) => {
    // The page has cancelled the request: this is not an empty answer.
    if (options.signal?.aborted) throw error;
    if (response.ok) throw new ApiError(0, "unreachable", "the gateway's answer broke off");
    return {};
  });
  if (!response.ok) throw new ApiError(response.status, answer.code ?? "", answer.detail ?? `status ${response.status}`);
  return answer;
};

/**
 * Returns the answer of the console's API to a query.
 * @param {string} path below /console/api/
 * @param {Record<string, string | number | null | undefined>} [query] members without a value are omitted
 * @param {AbortSignal} [signal]
 */
export const get = (path, query = {}, signal) => {
  const given = Object.entries(query).filter(([, value]) => value != null && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return ask(`api/${path}${text && `?${text}`}`, { signal });
};

/** Sends a POST. Forms and pages of other origins cannot send its header. @param {string} path below /console/ @param {object} body */
export const post = (path, body) =>
  ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Planwire-Console": "1" },
    body: JSON.stringify(body),
  });

/** Runs an action, and returns its answer. @param {string} name @param {object} parameters */
export const act = (name, parameters) => post(`api/actions/${name}`, parameters);
