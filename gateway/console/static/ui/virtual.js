/**
 * A list of any length that has elements only for the visible rows.
 *
 * All rows have the height in the stylesheet. The list stores the number of rows and the items of some of them; a row
 * without an item is shown empty, and `want` is called with the visible range. For screen readers and keys it is a
 * grid: the arrows, Home, End and the page keys move the active row, and Enter opens it.
 */
import { h, setAttribute } from "./dom.js";

/** Extra rows above and below the visible ones. */
const SPARE = 6;

const WANT_AFTER_MS = 60;

let made = 0;

/**
 * A list with elements only for the visible rows.
 * @template T
 * @param {object} options
 * @param {string} options.label
 * @param {string} options.kind the class that gives the columns their widths
 * @param {string[]} options.heads
 * @param {() => HTMLElement[]} options.make the cells' contents of a new row, one per head
 * @param {(row: HTMLElement, item: T | null, cells: HTMLElement[]) => void} options.update
 * @param {(item: T) => void} [options.open] what Enter and a double click do
 * @param {() => void} [options.want] called soon after what is looked at is not all known
 */
export const virtual = ({ label, kind, heads, make, update, open, want }) => {
  const name = `list${++made}`;
  const space = h("div", { class: "vspace", role: "rowgroup" });
  const head = h(
    "div",
    { class: "vrow vhead", role: "row", "aria-rowindex": "1" },
    ...heads.map((text) => h("span", { role: "columnheader" }, text)),
  );
  const probe = h("div", { class: "vrow probe", "aria-hidden": "true" });
  const element = h(
    "div",
    { class: `vlist ${kind}`, role: "grid", tabindex: "0", "aria-label": label, "aria-colcount": heads.length },
    head,
    space,
    probe,
  );
  /** @type {Map<number, HTMLElement>} what is on the screen */
  const rows = new Map();
  /** @type {HTMLElement[]} */
  const idle = [];
  /** @type {Map<number, T>} */
  const known = new Map();
  let count = 0;
  let active = -1;
  let height = 1;
  let isDue = false;
  /** @type {number | undefined} */
  let wanting;

  /** The range of the visible rows and a few more, [from, to). */
  const seen = () => {
    const first = Math.floor(Math.max(0, element.scrollTop) / height);
    const fitting = Math.ceil((element.clientHeight || innerHeight) / height) + 1;
    return { from: Math.max(0, Math.min(first, count - fitting) - SPARE), to: Math.min(count, first + fitting + SPARE) };
  };

  const newRow = () => {
    const row = h(
      "div",
      { class: "vrow", role: "row" },
      ...make().map(
        (cell, index) => (setAttribute(cell, "role", "gridcell"), setAttribute(cell, "data-label", heads[index]), cell),
      ),
    );
    row.addEventListener("pointerdown", () => activate(Number(row.dataset.index), false));
    if (open) row.addEventListener("dblclick", () => openAt(Number(row.dataset.index)));
    return row;
  };

  const draw = () => {
    isDue = false;
    height = probe.offsetHeight || height;
    const { from, to } = seen();
    for (const [index, row] of rows) {
      if (index >= from && index < to) continue;
      rows.delete(index);
      row.remove();
      idle.push(row);
    }
    for (let index = from; index < to; index++) {
      let row = rows.get(index);
      if (!row) {
        row = idle.pop() ?? newRow();
        rows.set(index, row);
        row.dataset.index = String(index);
        row.id = `${name}-${index}`;
        row.style.transform = `translateY(${index * height}px)`;
        setAttribute(row, "aria-rowindex", index + 2);
        space.append(row);
      } else row.style.transform = `translateY(${index * height}px)`;
      setAttribute(row, "aria-selected", String(index === active));
      const item = known.get(index) ?? null;
      setAttribute(row, "aria-busy", item === null);
      update(row, item, /** @type {HTMLElement[]} */ ([...row.children]));
    }
    space.style.height = `${count * height}px`;
    setAttribute(element, "aria-rowcount", count + 1);
    setAttribute(element, "aria-activedescendant", rows.has(active) ? `${name}-${active}` : null);
    if (!want || wanting) return;
    for (let index = from; index < to; index++) {
      if (known.has(index)) continue;
      wanting = setTimeout(() => ((wanting = undefined), want()), WANT_AFTER_MS);
      return;
    }
  };

  /** Draws once in the next frame; repeated calls are merged. */
  const redraw = () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(draw);
  };

  const openAt = (/** @type {number} */ index) => {
    const item = known.get(index);
    if (item !== undefined) open?.(item);
  };

  const activate = (/** @type {number} */ index, scrolls = true) => {
    active = Math.max(0, Math.min(count - 1, index));
    if (scrolls) {
      const top = active * height;
      const view = element.clientHeight - head.offsetHeight;
      if (top < element.scrollTop) element.scrollTop = top;
      else if (top + height > element.scrollTop + view) element.scrollTop = top + height - view;
    }
    redraw();
  };

  const page = () => Math.max(1, Math.floor(element.clientHeight / height) - 2);
  /** @type {Record<string, () => number>} */
  const moves = {
    ArrowDown: () => active + 1,
    ArrowUp: () => active - 1,
    PageDown: () => active + page(),
    PageUp: () => active - page(),
    Home: () => 0,
    End: () => count - 1,
  };

  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== element) return;
    if (moves[event.key]) activate(moves[event.key]());
    else if (event.key === "Enter" && active >= 0) openAt(active);
    else return;
    event.preventDefault();
  });
  element.addEventListener("scroll", redraw, { passive: true });
  new ResizeObserver(redraw).observe(element);

  return {
    element,
    seen,
    redraw,
    /**
     * Sets the number of rows, and the items of the rows from `from` on. Other items are dropped unless `keeps`.
     * @param {number} total @param {number} from @param {T[]} items
     */
    hold: (total, from, items, keeps = false) => {
      count = total;
      if (!keeps) known.clear();
      items.forEach((item, index) => known.set(from + index, item));
      if (active >= count) active = count - 1;
      redraw();
    },
    /** Scrolls to the top, for example for a new search. */
    rewind: () => {
      element.scrollTop = 0;
      active = -1;
      known.clear();
      redraw();
    },
    /** Moves the active row and gives the list the focus. @param {number} by */
    move: (by) => {
      if (!count) return;
      activate(active < 0 ? 0 : active + by);
      element.focus({ preventScroll: true });
    },
    /** @returns {T | undefined} */
    active: () => known.get(active),
    /** The active row, drawn now if necessary. @returns {HTMLElement | undefined} */
    row: () => (draw(), rows.get(active)),
  };
};
