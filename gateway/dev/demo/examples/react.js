/** The plan in React. Your own build imports from "react" and "planwire/react"; this page has both in one file. */
import { planwire } from "../../client/planwire.js";
import { createElement as h, createRoot, usePlanwire } from "../vendor/react.js";
import { open } from "./shared.js";

const topic = open(planwire);

/** Render count of each component. A more selective component renders less often. */
const drawn = { plan: 0, features: 0 };

const Badge = () => {
  const name = usePlanwire(topic, ({ state, status }) => state?.plan.name ?? (status == "fresh" ? "Free" : "…"));
  return h("strong", { id: "plan", className: "plan", "data-drawn": ++drawn.plan }, name);
};

const Features = () => {
  const features = usePlanwire(
    topic,
    ({ state }) => Object.keys(state?.features ?? {}),
    (one, other) => String(one) == String(other),
  );
  return h("p", { id: "features", "data-drawn": ++drawn.features }, features.join(", ") || "basic");
};

const Version = () =>
  h(
    "p",
    null,
    "Version: ",
    h(
      "span",
      { id: "version" },
      usePlanwire(topic, ({ version }) => version),
    ),
  );

const Freshness = () =>
  h(
    "p",
    null,
    "Freshness: ",
    h(
      "span",
      { id: "status" },
      usePlanwire(topic, ({ status }) => status),
    ),
  );

createRoot(document.getElementById("root")).render(h("div", null, h(Badge), h(Features), h(Version), h(Freshness)));
