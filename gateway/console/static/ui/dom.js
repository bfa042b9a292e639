/** Creates and updates elements. Every value becomes a text node or an attribute, never markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * A new element. `on...` members are listeners; null and false omit an attribute, and true makes it empty.
 * @param {string} name @param {Record<string, any>} attributes @param {...(Node | string)} children
 */
export const h = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/** A new SVG element. @param {string} name @param {Record<string, any>} attributes @param {...(Node | string)} children */
export const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

/** @template {Element} E @param {E} element @param {Record<string, any>} attributes @param {(Node | string)[]} children */
const fill = (element, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else setAttribute(element, key, value);
  }
  element.append(...children);
  return element;
};

/**
 * Sets an attribute, or removes it for null and false; an equal value is not set again.
 * @param {Element} element
 * @param {string} name
 * @param {any} value
 */
export const setAttribute = (element, name, value) => {
  if (value == null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value === true ? "" : value)) {
    element.setAttribute(name, value === true ? "" : value);
  }
};

/** Sets a text only if it differs, so that selections and screen readers are not disturbed. */
export const setText = (/** @type {Element} */ element, /** @type {any} */ text) => {
  const wanted = text == null ? "" : String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
};

/**
 * Updates the children of `parent` to match `items`, in order. An item with the same key keeps its element.
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

/** A section with its heading. @param {string} id @param {string} title @param {...(Node | string)} children */
export const card = (id, title, ...children) =>
  h(
    "section",
    { id, class: "card", tabindex: "-1", "aria-labelledby": `${id}-head` },
    h("h2", { id: `${id}-head` }, title),
    ...children,
  );

/** A table with a caption for screen readers. @param {string} caption @param {string[]} heads */
export const table = (caption, heads) => {
  const body = h("tbody");
  const head = h("tr", {}, ...heads.map((text) => h("th", { scope: "col" }, text)));
  const element = h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, head), body);
  return {
    element: h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, element),
    body,
  };
};

/** A row of a table, each cell labelled for narrow screens. @param {string[]} heads */
export const line = (heads) => h("tr", {}, ...heads.map((text) => h("td", { "data-label": text })));

/** A list of names and values. @param {Element} list @param {[string, string][]} facts */
export const showFacts = (list, facts) =>
  keyed(
    list,
    facts,
    ([name]) => name,
    ([name]) => h("div", {}, h("dt", {}, name), h("dd")),
    (element, [, value]) => setText(element.lastElementChild, value),
  );

/** A button. @param {string} text @param {() => void} onclick @param {Record<string, any>} [more] */
export const button = (text, onclick, more = {}) =>
  h("button", { type: "button", class: "small", onclick, ...more }, text);
