/** The plan as OpenFeature flags. */
import { provider } from "../../client/openfeature.js";
import { planwire } from "../../client/planwire.js";
import { OpenFeature, ProviderEvents } from "../vendor/openfeature.js";
import { open } from "./shared.js";

const topic = open(planwire);
const flags = OpenFeature.getClient();
/** @param {string} id @param {any} text */
const write = (id, text) => {
  /** @type {HTMLElement} */ (document.getElementById(id)).textContent = String(text);
};

const render = () => {
  write("plan", flags.getStringValue("plan.name", "Free"));
  write("sso", flags.getBooleanValue("sso", false) ? "on" : "off");
  write("seats", flags.getNumberValue("limits.seats", 1));
  write("status", topic.getSnapshot().status);
};
for (const event of [ProviderEvents.Ready, ProviderEvents.Stale, ProviderEvents.ConfigurationChanged])
  OpenFeature.addHandler(event, () => {
    write("event", event);
    render();
  });

await OpenFeature.setProviderAndWait(provider(topic));
