/**
 * What is made from the sources, as file name -> text: the classic script and the type declarations, which build.js writes
 * and check.js compares with what is committed; and what the demo's examples need of other people's frameworks.
 */
import { build, transform } from "esbuild";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { execFile } from "node:child_process";
import { compile } from "svelte/compiler";

const run = promisify(execFile);

export const HERE = fileURLToPath(new URL("..", import.meta.url));
/** Not in the package's folder: bundlers that find a tsconfig.json there change what they make of the sources. */
export const TYPES = join(HERE, "scripts/tsconfig.json");
const VENDOR = join(HERE, "../../gateway/dev/demo/vendor/");

/** The modules that are shipped. */
export const MODULES = ["planwire", "tabs", "storage", "fallback", "react", "vue", "svelte", "elements", "openfeature", "reference", "app", "usage", "server", "express"];

/** One minified bundle. @param {string} contents @param {object} [options] */
export const bundle = async (contents, options = {}) => {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: HERE, sourcefile: "entry.js" },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    ...options,
  });
  return outputFiles[0].text;
};

/** One module, minified as it is. @param {string} name */
const minified = async (name) =>
  (await transform(await readFile(join(HERE, `${name}.js`), "utf8"), { minify: true })).code;

/** The budgets' subjects. @returns {Promise<Record<string, string>>} */
export const measured = async () => ({
  core: await bundle(`export { planwire } from "./planwire.js"`),
  "core and tabs": await bundle(`export { planwire } from "./planwire.js"; export { tabs } from "./tabs.js"`),
  everything: await bundle(
    `export { planwire, topic } from "./planwire.js"; export { tabs } from "./tabs.js"; export { fallback } from "./fallback.js";
     export { stored, injected, forget } from "./storage.js"; export { define } from "./elements.js"; export { app } from "./app.js";
     export { usage, meter } from "./usage.js"; export { provider } from "./openfeature.js"; export { part } from "./svelte.js";
     export { usePlanwire as useReact } from "./react.js"; export { usePlanwire as useVue } from "./vue.js"`,
    { external: ["react", "vue"] },
  ),
  react: await minified("react"),
  usage: await minified("usage"),
});

const classic = async () =>
  "/* Planwire's browser client as a classic script: planwire, topic, tabs, stored, injected, forget, fallback, define, app, usage and meter are in `Planwire`. MIT. */\n" +
  (await bundle(
    `export { planwire, topic } from "./planwire.js"; export { tabs } from "./tabs.js"; export { fallback } from "./fallback.js";
     export { stored, injected, forget } from "./storage.js"; export { define } from "./elements.js"; export { app } from "./app.js";
     export { usage, meter } from "./usage.js"`,
    { format: "iife", globalName: "Planwire", target: "es2022" },
  ));

const declarations = async () => {
  const folder = await mkdtemp(join(tmpdir(), "planwire-"));
  const tsc = join(HERE, "node_modules/typescript/bin/tsc");
  await run(process.execPath, [
    tsc,
    "-p",
    TYPES,
    "--noEmit",
    "false",
    "--declaration",
    "--emitDeclarationOnly",
    "--outDir",
    folder,
  ]);
  const names = (await readdir(folder)).filter((name) => MODULES.includes(name.replace(".d.ts", "")));
  const texts = await Promise.all(
    names.map(async (name) => [join(HERE, name), await readFile(join(folder, name), "utf8")]),
  );
  await rm(folder, { recursive: true });
  return Object.fromEntries(texts);
};

const svelteApp = async () => {
  const source = await readFile(join(HERE, "../../gateway/dev/demo/examples/Plan.svelte"), "utf8");
  const { js } = compile(source, { filename: "Plan.svelte", css: "injected", generate: "client" });
  return `${js.code.replace("export default function", "function")}\nexport { Plan }; export { mount } from "svelte";`;
};

/** Other people's code for the examples: file -> the packages in it, and what the file exports. */
export const FRAMEWORKS = {
  react: {
    of: ["react", "react-dom", "scheduler"],
    source: `export { createElement } from "react"; export { createRoot } from "react-dom/client"; export { usePlanwire } from "./react.js"`,
  },
  vue: { of: ["vue"], source: `export { createApp, h } from "vue"; export { usePlanwire } from "./vue.js"` },
  openfeature: {
    of: ["@openfeature/web-sdk", "@openfeature/core"],
    source: `export { OpenFeature, ProviderEvents } from "@openfeature/web-sdk"`,
  },
  svelte: { of: ["svelte"], source: svelteApp },
};

/** @param {string} name @param {string} file @returns {Promise<string>} */
const ofPackage = (name, file) => readFile(join(HERE, "node_modules", name, file), "utf8").catch(() => "");

/** What is not: other people's code is bundled on the spot. @returns {Promise<Record<string, string>>} path -> text */
export const vendored = async () => {
  /** @type {Record<string, string>} */
  const files = {};
  const notices = [];
  for (const [file, { of, source }] of Object.entries(FRAMEWORKS)) {
    const names = [];
    for (const name of of) {
      const { version, license } = JSON.parse(await ofPackage(name, "package.json"));
      names.push(`${name} ${version} (${license})`);
      const text = (await ofPackage(name, "LICENSE")) || (await ofPackage(name, "LICENSE.md"));
      notices.push(`${name} ${version}, in ${file}.js: ${license}\n\n${text.trim()}\n`);
    }
    files[join(VENDOR, `${file}.js`)] = await bundle(typeof source == "string" ? source : await source(), {
      banner: { js: `/* ${names.join(", ")}, bundled and minified for the example page. Licences: LICENSES.txt */` },
      conditions: ["browser"],
      define: {
        "process.env.NODE_ENV": '"production"',
        __VUE_OPTIONS_API__: "true",
        __VUE_PROD_DEVTOOLS__: "false",
        __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
      },
      legalComments: "inline",
      target: "es2022",
    });
  }
  files[join(VENDOR, "LICENSES.txt")] = notices.join(`\n${"-".repeat(80)}\n\n`);
  return files;
};

/** What is committed. @returns {Promise<Record<string, string>>} path -> text */
export const artefacts = async () => ({
  [join(HERE, "planwire.classic.js")]: await classic(),
  ...(await declarations()),
});
