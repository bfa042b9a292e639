/** Writes everything that is made from the sources. */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, relative } from "node:path";
import { HERE, artefacts } from "./artefacts.js";

for (const [path, text] of Object.entries(await artefacts())) {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
  console.log(relative(HERE, path), text.length);
}
