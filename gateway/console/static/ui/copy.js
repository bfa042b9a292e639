/** Copying to the clipboard: shell commands as text, and the copy button. */
import { button, setText } from "./dom.js";

const BACK_AFTER_MS = 1500;

/** A word for a POSIX shell. @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/**
 * A request as a shell command. It refers to the caller's own key; the page has no key.
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

/** A button that copies a text to the clipboard, and shows whether that succeeded. @param {string} label @param {() => string | Promise<string>} text */
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
