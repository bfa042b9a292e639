/** A small SVG chart of the last minutes: up to three lines, with the newest values as text and the others on hover. */
import { h, keyed, setAttribute, setText, svg } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 48;
/** Minimum number of slots in the width; fewer samples start further right. */
const SLOTS = 30;

/** A round upper bound of the scale, at least `least`. @param {number} value @param {number} least */
export const ceiling = (value, least) => {
  const wanted = Math.max(value, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = [1, 2, 5, 10].find((each) => each * power >= wanted * 0.999) ?? 10;
  return step * power;
};

/** The distance between two samples. @param {number} length */
const step = (length) => WIDTH / (Math.max(SLOTS, length) - 1);

/** The x position of a sample; the newest is at the right. @param {number} index @param {number} length */
const place = (index, length) => WIDTH - (length - 1 - index) * step(length);

/**
 * The path of one line. Unknown values leave a gap; a single value is a short dash.
 * @param {(number | null)[]} values @param {number} top
 */
export const path = (values, top) => {
  let text = "";
  let isDown = false;
  values.forEach((value, index) => {
    if (value == null) return (isDown = false);
    const y = (HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1);
    const x = place(index, values.length).toFixed(1);
    text += isDown ? `L${x} ${y}` : `M${x} ${y}h.01`;
    isDown = true;
  });
  return text;
};

/**
 * A chart of one or more lines over time, with the newest values.
 * @param {object} options
 * @param {string} options.title
 * @param {string} options.why what it is, in a sentence
 * @param {{name: string, tone: string}[]} options.lines
 * @param {(value: number) => string} options.format
 * @param {number} options.least the least top of its scale
 */
export const chart = ({ title, why, lines, format, least }) => {
  const paths = lines.map(({ tone }) => svg("path", { class: `line ${tone}`, "vector-effect": "non-scaling-stroke" }));
  const mark = svg("line", {
    class: "mark",
    y1: 0,
    y2: HEIGHT,
    "vector-effect": "non-scaling-stroke",
    visibility: "hidden",
  });
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    ...paths,
    mark,
  );
  const values = h("p", { class: "values" });
  const scale = h("p", { class: "scale", "aria-hidden": "true" });
  const heading = h("h3", { tabindex: "0", "data-why": why }, title);
  const element = h("figure", { class: "chart" }, h("figcaption", {}, heading, values), drawing, scale);
  /** @type {{at: number, values: (number | null)[]}[]} */
  let samples = [];
  /** @type {number | null} the sample that is pointed at */
  let pointed = null;

  const showValues = () => {
    const index = pointed ?? samples.length - 1;
    const sample = samples[index];
    const legend = lines.map(({ name, tone }, each) => {
      const value = sample?.values[each];
      return { name, tone, text: value == null ? "none" : format(value) };
    });
    keyed(
      values,
      legend,
      ({ name }) => name,
      ({ tone, name }) => h("span", { class: tone }, h("b"), name && ` ${name}`),
      (span, { text }) => setText(span.firstElementChild, text),
    );
    setAttribute(mark, "visibility", pointed == null ? "hidden" : "visible");
    if (pointed == null) return;
    const x = place(pointed, samples.length);
    setAttribute(mark, "x1", x);
    setAttribute(mark, "x2", x);
  };

  drawing.addEventListener("pointermove", (/** @type {any} */ event) => {
    const box = drawing.getBoundingClientRect();
    const share = (event.clientX - box.left) / Math.max(1, box.width);
    const index = samples.length - 1 - Math.round(((1 - share) * WIDTH) / step(samples.length));
    pointed = samples.length ? Math.max(0, Math.min(samples.length - 1, index)) : null;
    showValues();
  });
  drawing.addEventListener("pointerleave", () => {
    pointed = null;
    showValues();
  });

  return {
    element,
    /** @param {{at: number, values: (number | null)[]}[]} all the oldest first; `at` in seconds */
    show: (all) => {
      samples = all;
      const known = samples.flatMap((sample) => sample.values.filter((value) => value != null));
      const top = ceiling(Math.max(0, .../** @type {number[]} */ (known)), least);
      paths.forEach((line, each) =>
        setAttribute(
          line,
          "d",
          path(
            samples.map((sample) => sample.values[each]),
            top,
          ),
        ),
      );
      const seconds = samples.length > 1 ? Math.round(samples[samples.length - 1].at - samples[0].at) : 0;
      setText(scale, `${seconds ? `${seconds} s` : ""} · top ${format(top)}`);
      if (pointed != null && pointed >= samples.length) pointed = null;
      showValues();
      const spoken = lines.map(({ name }, each) => {
        const value = samples[samples.length - 1]?.values[each];
        return `${name || title} ${value == null ? "unknown" : format(value)}`;
      });
      setAttribute(
        drawing,
        "aria-label",
        `${title}: ${spoken.join(", ")}; the last ${seconds} seconds, scale to ${format(top)}`,
      );
    },
  };
};
