/** What is put on the clipboard: commands and fixtures as text, and the button that does it. Pure but for the button. */
import { button, setText } from "./dom.js";

const BACK_AFTER_MS = 1500;

/** A word for a POSIX shell. @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/**
 * A request as a shell command. The key is the caller's own: it is not in the page.
 * @param {string} method @param {string} url @param {{key?: string, body?: unknown}} [options] key: a shell variable's name
 */
export const curl = (method, url, { key = "", body } = {}) =>
  [
    "curl",
    method === "GET" ? "" : `-X ${method}`,
    key && `-H "Authorization: Bearer $${key}"`,
    body === undefined ? "" : `-H 'Content-Type: application/json' --data-raw ${quoted(JSON.stringify(body))}`,
    quoted(url),
  ]
    .filter(Boolean)
    .join(" ");

/** A button that puts a text on the clipboard, and says whether the browser let it. @param {string} label @param {() => string | Promise<string>} text */
export const copyButton = (label, text) => {
  const element = button(label, async () => {
    setText(element, await copy(text));
    setTimeout(() => setText(element, label), BACK_AFTER_MS);
  });
  return element;
};

/** Copies a text to the clipboard. @param {() => string | Promise<string>} text */
export const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(await text());
    return "Copied";
  } catch {
    return "Not allowed";
  }
};
