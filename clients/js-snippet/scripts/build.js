/** Writes everything that is made from the sources; with `--vendor` only the frameworks of the demo's example pages. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { HERE, artefacts, vendored } from "./artefacts.js";
import { withIntegrity } from "./integrity.js";

/** @param {string} path @param {string} text */
const write = async (path, text) => {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
  console.log(relative(HERE, path), text.length);
};

for (const [path, text] of Object.entries(await vendored())) await write(path, text);
if (!process.argv.includes("--vendor")) {
  for (const [path, text] of Object.entries(await artefacts())) await write(path, text);
  const readme = join(HERE, "README.md");
  await write(readme, await withIntegrity(await readFile(readme, "utf8")));
}
