/** The plan in Svelte: the compiled Plan.svelte gets the topic, which is a Svelte store. */
import { planwire } from "../../client/planwire.js";
import { Plan, mount } from "../vendor/svelte.js";
import { open } from "./shared.js";

mount(Plan, { target: document.getElementById("root"), props: { topic: open(planwire) } });
