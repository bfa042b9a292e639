/** Prints the integrity of each shipped script, as a page that loads it from the gateway states it. */
import { createHash } from "node:crypto";
import { readFile, readdir } from "node:fs/promises";

const folder = new URL("..", import.meta.url);
for (const name of (await readdir(folder)).filter((name) => name.endsWith(".js")))
  console.log(`${name} sha384-${createHash("sha384").update(await readFile(new URL(name, folder))).digest("base64")}`);
