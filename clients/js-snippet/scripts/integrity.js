/** What a page states about a script that it loads from elsewhere (Subresource Integrity), and where the README does. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const HERE = fileURLToPath(new URL("..", import.meta.url));

/** @param {string} name @returns {Promise<string>} */
export const integrity = async (name) =>
  `sha384-${createHash("sha384")
    .update(await readFile(join(HERE, name)))
    .digest("base64")}`;

/** The README with the integrity of the files that it lists. @param {string} text @returns {Promise<string>} */
export const withIntegrity = async (text) => {
  for (const name of ["planwire.js", "planwire.classic.js"]) {
    const hash = await integrity(name);
    text = text.replace(
      new RegExp(`(\\| \`${name.replaceAll(".", "\\.")}\` \\| \`)sha384-[^\`]*`),
      (_, row) => row + hash,
    );
  }
  return text;
};
