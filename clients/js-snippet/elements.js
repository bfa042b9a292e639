/**
 * Custom elements, for pages without a framework. Role: `define(topic)` once, then in the HTML
 *
 *     <pw-value path="plan.name" none="Free">…</pw-value>
 *     <pw-if feature="sso"> ... </pw-if>   <pw-if path="limits.seats"> ... </pw-if>
 *
 * Each has the attribute `status` (`fresh`, `stale`, ...) for styling. `<pw-value>` has its content while nothing is
 * known, and the text of `none`, or else its content, if the newest state has no such value. `<pw-if>` hides its content
 * (attribute `hidden`) when the feature is off, not known, or the topic is denied.
 */

/** A member of the state's JSON, never one that every object inherits, such as `constructor`. @param {any} part @param {string} name */
const member = (part, name) => (part != null && Object.hasOwn(part, name) ? part[name] : undefined);

/**
 * Registers the elements for one topic.
 * @param {import("./planwire.js").Topic} topic
 * @param {string} [prefix]  of the elements' names; a second topic on the page needs another one
 */
export const define = (topic, prefix = "pw") => {
  /** @param {string} name @param {(element: HTMLElement, value: any, snapshot: import("./planwire.js").Snapshot) => void} render */
  const element = (name, render) =>
    customElements.define(
      prefix + name,
      class extends HTMLElement {
        static observedAttributes = ["path", "feature"];
        /** @type {any} */
        stop;
        connectedCallback() {
          this.stop = topic.subscribe((snapshot) => this.show(snapshot));
        }
        disconnectedCallback() {
          this.stop();
        }
        attributeChangedCallback() {
          if (this.stop) this.show(topic.getSnapshot());
        }
        /** @param {import("./planwire.js").Snapshot} snapshot */
        show(snapshot) {
          const path = this.getAttribute("path") ?? "features." + this.getAttribute("feature");
          this.setAttribute("status", snapshot.status);
          render(
            this,
            path.split(".").reduce(member, snapshot.state),
            snapshot,
          );
        }
      },
    );
  /** @type {WeakMap<HTMLElement, string | null>} the contents that values have replaced */
  const contents = new WeakMap();
  element("-value", (self, value, { status }) => {
    const text = value ?? (status == "fresh" ? self.getAttribute("none") : null);
    if (text != null && !contents.has(self)) contents.set(self, self.textContent);
    if (contents.has(self)) self.textContent = text ?? /** @type {string | null} */ (contents.get(self));
  });
  element("-if", (self, value, { status }) => {
    self.hidden = !value || status == "denied";
  });
};
