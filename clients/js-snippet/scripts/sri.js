/** Prints the integrity of each shipped script, as a page that loads it from the gateway states it. */
import { readdir } from "node:fs/promises";
import { HERE, integrity } from "./integrity.js";

for (const name of (await readdir(HERE)).filter((each) => each.endsWith(".js")))
  console.log(name, await integrity(name));
