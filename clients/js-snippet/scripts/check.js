/**
 * Checks what is shipped: sizes within their budgets, the README and package.json saying the same, generated files in
 * step with their sources, and nothing else in the package. Types are checked by types.js.
 */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { HERE, MODULES, artefacts, measured } from "./artefacts.js";
import { withIntegrity } from "./integrity.js";

let failed = 0;
/** @param {boolean} isGood @param {string} text */
const report = (isGood, text) => {
  console.log(`${isGood ? "ok " : "NOT"} ${text}`);
  failed += isGood ? 0 : 1;
};

const { budgets, version } = JSON.parse(await readFile(join(HERE, "package.json"), "utf8"));
const readme = await readFile(join(HERE, "README.md"), "utf8");

for (const [name, text] of Object.entries(await measured())) {
  // The program, not node:zlib, whose deflate differs by a few bytes.
  const bytes = execFileSync("gzip", ["-9nc"], { input: text }).length;
  report(bytes <= budgets[name], `${name}: ${bytes} bytes of ${budgets[name]}`);
  const row = readme.match(new RegExp(`^\\| ${name} \\| ([0-9.]+) KB \\|`, "m"));
  report(row !== null && Math.floor(Number(row[1]) * 1024) == budgets[name], `README states the budget of ${name}`);
}

report((await withIntegrity(readme)) == readme, "README states the scripts' integrity (else: npm run build)");

const core = await readFile(join(HERE, "planwire.js"), "utf8");
report(core.includes(`"planwire-js/${version}"`), "the hello names the package's version");

for (const [path, text] of Object.entries(await artefacts())) {
  const committed = await readFile(path, "utf8").catch(() => "");
  report(committed == text, `${relative(HERE, path)} is in step (else: npm run build)`);
}

const packed = JSON.parse(
  execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: HERE, stdio: ["ignore", "pipe", "ignore"] }).toString(),
);
const list = Array.isArray(packed) ? packed[0] : Object.values(packed)[0];
const names = list.files.map((/** @type {any} */ { path }) => path).sort();
const expected = [
  ...MODULES.flatMap((name) => [`${name}.js`, `${name}.d.ts`]),
  "planwire.classic.js",
  "LICENSE",
  "README.md",
  "package.json",
].sort();
report(
  String(names) == String(expected),
  `the package holds ${names.length} files${String(names) == String(expected) ? "" : `: ${names}, not ${expected}`}`,
);

process.exitCode = failed ? 1 : 0;
