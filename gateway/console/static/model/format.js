/** Formats values for people. Pure. */

/** A span of time in its largest unit. @param {number | null | undefined} seconds */
export const span = (seconds) => {
  if (seconds == null) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
};

/** A span in whole units, so that the text changes seldom. @param {number | null | undefined} seconds */
export const coarse = (seconds) => (seconds == null ? "" : span(Math.max(1, Math.floor(seconds))).replace(".0", ""));

/** How long ago something was. @param {number | null | undefined} seconds */
export const ago = (seconds) => (seconds == null ? "never" : seconds < 1 ? "now" : `${coarse(seconds)} ago`);

const two = (/** @type {number} */ value) => String(value).padStart(2, "0");

/** Local time. @param {number} us microseconds since 1970 */
export const moment = (us) => {
  const date = new Date(us / 1000);
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `${day} ${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
};

/** Microseconds since 1970 of an RFC 3339 instant, or NaN. @param {unknown} instant */
export const us = (instant) => (typeof instant === "string" ? Date.parse(instant) * 1000 : NaN);

/** Local time of an RFC 3339 instant, or the text itself. @param {string} instant */
export const local = (instant) => (Number.isNaN(us(instant)) ? instant : moment(us(instant)));

/** A number with separators; empty if it is not known. @param {number | null | undefined} value */
export const count = (value) => (value == null ? "" : value.toLocaleString("en"));

/** A number and its noun. @param {number} value @param {string} one @param {string} [many] */
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** Any value as text on one line. @param {unknown} value */
export const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** The same, and nothing for no value. @param {unknown} value */
export const text = (value) => (value == null ? "" : plain(value));

/** One side of a difference, in words that can wrap. @param {unknown} value */
export const words = (value) => {
  if (value == null || typeof value !== "object" || Array.isArray(value)) return text(value);
  const fields = Object.entries(value).map(([field, each]) => `${field} ${plain(each)}`);
  return fields.join(", ");
};
