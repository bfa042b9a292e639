/** The tooltip for elements with `data-why`: shown on hover and focus, hidden by Escape. */
import { h, setAttribute, setText } from "./dom.js";

const GAP_PX = 6;

/** Starts listening. A focused row shows the explanation of an element inside it. */
export const tips = () => {
  const tip = h("div", { id: "tip", role: "tooltip", hidden: true });
  /** @type {Element | null} */
  let shown = null;

  const hide = () => {
    tip.hidden = true;
    if (shown) setAttribute(shown, "aria-describedby", null);
    shown = null;
  };

  const show = (/** @type {Element} */ element) => {
    const why = element.getAttribute("data-why");
    if (!why) return hide();
    if (shown !== element) hide();
    shown = element;
    setText(tip, why);
    setAttribute(element, "aria-describedby", "tip");
    tip.hidden = false;
    const place = element.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = tip;
    const isBelow = place.bottom + GAP_PX + height < innerHeight;
    tip.style.left = `${Math.max(GAP_PX, Math.min(place.left, innerWidth - width - GAP_PX))}px`;
    tip.style.top = `${isBelow ? place.bottom + GAP_PX : Math.max(GAP_PX, place.top - height - GAP_PX)}px`;
  };

  const look = (/** @type {Event} */ event) => {
    const target = /** @type {Element} */ (event.target);
    if (tip.contains(target)) return;
    const found =
      target.closest("[data-why]") ?? (event.type === "focusin" ? target.querySelector(":scope > [data-why]") : null);
    if (found) show(found);
    else hide();
  };

  /** Moves the tooltip with its element, or hides it if the pointer is no longer over the element. */
  const follow = () => {
    if (shown?.matches(":hover, :focus, :focus > *")) show(shown);
    else hide();
  };

  document.body.append(tip);
  document.addEventListener("pointerover", look);
  document.addEventListener("focusin", look);
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", follow, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  return { show, hide };
};
