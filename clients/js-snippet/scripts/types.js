/**
 * Checks the types of all JavaScript: the client (tsconfig.json), and the pages that load it, the console and the demo.
 * Pages import by address (`../client/planwire.js`), so they are laid out in a folder as the gateway serves them.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FRAMEWORKS, HERE, MODULES, TYPES } from "./artefacts.js";

const GATEWAY = join(HERE, "../../gateway");

/** @param {string} project @param {string} cwd  what the paths in messages are relative to @returns {boolean} */
const isClean = (project, cwd) => {
  const tsc = join(HERE, "node_modules/typescript/bin/tsc");
  return spawnSync(process.execPath, [tsc, "-p", project], { cwd, stdio: "inherit" }).status == 0;
};

/** @param {string} folder */
const layOut = (folder) => {
  cpSync(join(GATEWAY, "console/static"), join(folder, "console"), { recursive: true });
  cpSync(join(GATEWAY, "dev/demo"), join(folder, "demo"), { recursive: true, filter: (path) => !path.endsWith("vendor") });
  for (const name of MODULES) cpSync(join(HERE, `${name}.d.ts`), join(folder, `client/${name}.d.ts`));
  // The bundles of other people's code are made on the spot, and have the types of what is in them.
  mkdirSync(join(folder, "demo/vendor"));
  for (const [name, { source }] of Object.entries(FRAMEWORKS)) {
    const exports = typeof source == "string" ? source : "export const Plan: any; export const mount: any;";
    writeFileSync(join(folder, `demo/vendor/${name}.d.ts`), exports.replaceAll('"./', '"../../client/'));
  }
  writeFileSync(join(folder, "demo/planwire.d.ts"), `declare const Planwire: any;\ndeclare module "react-dom/client";\n`);
  symlinkSync(join(HERE, "node_modules"), join(folder, "node_modules"), "dir");
  const compilerOptions = {
    target: "ES2023",
    module: "ESNext",
    moduleResolution: "Bundler",
    moduleDetection: "force",
    lib: ["ES2023", "DOM", "DOM.Iterable"],
    types: [],
    allowJs: true,
    checkJs: true,
    strict: true,
    noEmit: true,
    skipLibCheck: true,
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["console", "demo"] }));
};

const folder = mkdtempSync(join(tmpdir(), "planwire-"));
try {
  layOut(folder);
  const results = [isClean(TYPES, HERE), isClean("tsconfig.json", folder)];
  process.exitCode = results.every(Boolean) ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true });
}
