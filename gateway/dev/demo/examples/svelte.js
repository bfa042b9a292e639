/** The plan in Svelte: Plan.svelte, compiled, is given the topic and uses it as the store it is. */
import { planwire } from "../../client/planwire.js";
import { Plan, mount } from "../vendor/svelte.js";
import { open } from "./shared.js";

mount(Plan, { target: document.getElementById("root"), props: { topic: open(planwire) } });
