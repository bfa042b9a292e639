/** Making and keeping elements. Every value becomes a text node or an attribute, never markup. */

/**
 * A new element. `on...` members are listeners, null and false leave an attribute out, true makes it empty.
 * @param {string} name @param {Record<string, any>} attributes @param {...(Node | string)} children
 */
export const h = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else set(element, key, value);
  }
  element.append(...children);
  return element;
};

/** @param {Element} element @param {string} name @param {any} value */
export const set = (element, name, value) => {
  if (value == null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value === true ? "" : value)) {
    element.setAttribute(name, value === true ? "" : value);
  }
};

/** Changes a text only where it differs, so that selections and screen readers are left alone. */
export const say = (/** @type {Element} */ element, /** @type {any} */ text) => {
  const wanted = text == null ? "" : String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
};

/**
 * Makes the children of `parent` those of `items`, in order; what has the same key stays the same element.
 * @template T
 * @param {Element} parent @param {T[]} items @param {(item: T) => string} key
 * @param {(item: T) => Element} make @param {(element: any, item: T) => void} update
 */
export const keyed = (parent, items, key, make, update) => {
  const old = new Map([...parent.children].map((child) => [/** @type {any} */ (child).rowKey, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = old.get(name);
    old.delete(name);
    if (!element) {
      element = make(item);
      /** @type {any} */ (element).rowKey = name;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of old.values()) element.remove();
};

/** A table with a caption for screen readers. @param {string} caption @param {string[]} heads */
export const table = (caption, heads) => {
  const body = h("tbody");
  const head = h("tr", {}, ...heads.map((text) => h("th", { scope: "col" }, text)));
  const element = h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, head), body);
  return { element: h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, element), body };
};

/** The line of a table, each cell labelled for narrow screens. @param {string[]} heads */
export const line = (heads) => h("tr", {}, ...heads.map((text) => h("td", { "data-label": text })));

export const EXPLAINED = {
  SYNCED: "The tab has said that it shows the newest version.",
  SENT: "The newest version was sent, and no answer is due: it was just sent, or the audience is a crowd.",
  STALE: "It has what this gateway has, but that is not proved to be the newest.",
  BEHIND: "It does not show the newest version, or has not said so in time.",
  NACKED: "The page received the newest version and could not use it.",
};

/** Shows a status, and why. @param {Element} pill @param {keyof EXPLAINED | null} status @param {string} [why] */
export const showStatus = (pill, status, why) => {
  set(pill, "class", "pill");
  set(pill, "data-status", status ?? "NONE");
  set(pill, "title", status ? `${status}: ${why || EXPLAINED[status]}` : "No tab is connected to it here.");
  say(pill, status ?? "no tabs");
};

/** @param {number | null} seconds */
export const span = (seconds) => {
  if (seconds == null) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
};

/** Rounded to what does not flicker. @param {number | null} seconds */
export const ago = (seconds) => (seconds == null ? "never" : seconds < 1 ? "now" : `${span(Math.floor(seconds)).replace(".0", "")} ago`);

/** @param {number} us microseconds since 1970 */
export const moment = (us) => {
  const date = new Date(us / 1000);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `${day} ${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
};

/** A button that puts a text on the clipboard, or nothing where the browser lets no page do so. */
export const copyButton = (/** @type {string} */ label, /** @type {() => string} */ text) => {
  if (!navigator.clipboard) return h("span");
  const button = h("button", {
    type: "button",
    class: "small",
    onclick: async () => {
      await navigator.clipboard.writeText(text()).then(
        () => say(button, "Copied"),
        () => say(button, "Not allowed"),
      );
      setTimeout(() => say(button, label), 1500);
    },
  }, label);
  return button;
};
