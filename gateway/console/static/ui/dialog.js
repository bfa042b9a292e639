/** The dialog of an action: asks for confirmation, then shows the result and the audit entry. */
import { copyButton } from "./copy.js";
import { button, h, setAttribute, setText, showFacts } from "./dom.js";

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {string} label
 * @property {"text" | "number" | "select"} [type]
 * @property {string} [value]
 * @property {[string, string][]} [options] of a select: value, text
 * @property {string} [help]
 * @property {boolean} [optional]
 */

/** @typedef {{outcome: string, facts: [string, string][], audit: [string, string][]}} Done */

/** @param {Field} field */
const control = ({ name, type = "text", value = "", options = [], optional = false }) => {
  const common = { id: `do-${name}`, name, required: !optional };
  if (type !== "select") return h("input", { ...common, type, value, autocomplete: "off", spellcheck: "false" });
  return h(
    "select",
    common,
    ...options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)),
  );
};

/**
 * Opens the dialog; resolves when it is closed, with whether the action was done.
 * @param {object} options
 * @param {string} options.title
 * @param {string} options.says what will happen, in a sentence or two
 * @param {string} options.label the button that does it
 * @param {Field[]} [options.fields]
 * @param {boolean} [options.isGrave] it cannot be undone
 * @param {() => string} [options.command] the same as a shell command, to copy
 * @param {(values: Record<string, string>) => Promise<Done>} options.run
 * @returns {Promise<boolean>}
 */
export const ask = ({ title, says, label, fields = [], isGrave = false, command, run }) =>
  new Promise((resolve) => {
    let isDone = false;
    const problem = h("p", { class: "bad", role: "alert" });
    const outcome = h("p", { class: "outcome" });
    const facts = h("dl", { class: "facts" });
    const audit = h("dl", { class: "facts" });
    const result = h(
      "div",
      { class: "result", role: "status", hidden: true },
      outcome,
      facts,
      h("h3", {}, "Audit entry"),
      audit,
    );
    const doIt = /** @type {HTMLButtonElement} */ (
      h("button", { class: isGrave ? "primary grave" : "primary" }, label)
    );
    const close = button("Cancel", () => dialog.close(), { class: null, autofocus: isGrave || !fields.length });
    const form = /** @type {HTMLFormElement} */ (
      h(
        "form",
        { method: "dialog" },
        ...fields.flatMap((field) => [
          h(
            "label",
            { for: `do-${field.name}` },
            field.label,
            field.optional && field.type !== "select" ? h("span", { class: "quiet" }, " (may be empty)") : "",
          ),
          control(field),
          field.help ? h("p", { class: "quiet" }, field.help) : "",
        ]),
        problem,
        result,
        h("div", { class: "tools end" }, ...(command ? [copyButton("Copy as curl", command)] : []), close, doIt),
      )
    );
    const dialog = /** @type {HTMLDialogElement} */ (
      h(
        "dialog",
        { class: "card action", "aria-labelledby": "do-head", "aria-describedby": "do-says" },
        h("h2", { id: "do-head" }, title),
        h("p", { id: "do-says" }, says),
        form,
      )
    );

    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (doIt.getAttribute("aria-busy")) return;
      setAttribute(doIt, "aria-busy", "true");
      setText(problem, "");
      try {
        const done = await run(/** @type {Record<string, string>} */ (Object.fromEntries(new FormData(form))));
        isDone = true;
        setText(outcome, done.outcome);
        showFacts(facts, done.facts);
        showFacts(audit, done.audit);
        result.hidden = false;
        doIt.hidden = true;
        for (const input of form.querySelectorAll("input, select")) setAttribute(input, "disabled", true);
        setText(close, "Close");
        close.focus();
      } catch (error) {
        setText(problem, error instanceof Error ? `Not done: ${error.message}.` : "Not done.");
      }
      setAttribute(doIt, "aria-busy", null);
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(isDone);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
