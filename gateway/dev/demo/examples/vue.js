/** The plan in Vue. Your own build imports from "vue" and "planwire/vue"; this page has both in one file. */
import { planwire } from "../../client/planwire.js";
import { createApp, h, usePlanwire } from "../vendor/vue.js";
import { open } from "./shared.js";

const topic = open(planwire);

createApp({
  setup() {
    const plan = usePlanwire(topic, ({ state, status }) => state?.plan.name ?? (status == "fresh" ? "Free" : "…"));
    const status = usePlanwire(topic, (snapshot) => snapshot.status);
    return () => [
      h("strong", { id: "plan", class: "plan" }, plan.value),
      h("p", ["Freshness: ", h("span", { id: "status" }, status.value)]),
    ];
  },
}).mount("#root");
