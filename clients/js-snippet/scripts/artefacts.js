/**
 * What is made from the sources, as file name -> text: the classic script, the type declarations, and what the demo's
 * examples need of other people's frameworks. build.js writes it, check.js compares it with what is committed.
 */
import { build } from "esbuild";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { execFile } from "node:child_process";
import { compile } from "svelte/compiler";

const run = promisify(execFile);

export const HERE = fileURLToPath(new URL("..", import.meta.url));
export const VENDOR = join(HERE, "../../gateway/demo/vendor/");

/** The modules that are shipped. */
export const MODULES = ["planwire", "tabs", "storage", "fallback", "react", "vue", "svelte", "elements", "openfeature"];

const EXTERNAL = ["react", "vue"];

/** One minified bundle. @param {string} contents @param {object} [options] */
export const bundle = async (contents, options = {}) => {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: HERE, sourcefile: "entry.js" },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    ...options,
  });
  return outputFiles[0].text;
};

/** The budgets' subjects. @returns {Promise<Record<string, string>>} */
export const measured = async () => ({
  core: await bundle(`export { planwire } from "./planwire.js"`, { target: "esnext" }),
  "core and tabs": await bundle(`export { planwire } from "./planwire.js"; export { tabs } from "./tabs.js"`, { target: "esnext" }),
  everything: await bundle(MODULES.map((name) => `export * as ${name} from "./${name}.js"`).join(";"), {
    external: EXTERNAL,
    target: "esnext",
  }),
  react: await bundle(`export { usePlanwire } from "./react.js"`, { external: EXTERNAL, target: "esnext" }),
});

const classic = async () =>
  "/* Planwire's browser client as a classic script: planwire, tabs, stored, injected, forget, fallback and define are in `Planwire`. MIT. */\n" +
  (await bundle(
    `export { planwire } from "./planwire.js"; export { tabs } from "./tabs.js"; export { fallback } from "./fallback.js";
     export { stored, injected, forget } from "./storage.js"; export { define } from "./elements.js"`,
    { format: "iife", globalName: "Planwire" },
  ));

const declarations = async () => {
  const folder = await mkdtemp(join(tmpdir(), "planwire-"));
  const tsc = join(HERE, "node_modules/typescript/bin/tsc");
  await run(process.execPath, [tsc, "-p", HERE, "--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--outDir", folder]);
  const names = (await readdir(folder)).filter((name) => MODULES.includes(name.replace(".d.ts", "")));
  const texts = await Promise.all(names.map(async (name) => [join(HERE, name), await readFile(join(folder, name), "utf8")]));
  await rm(folder, { recursive: true });
  return Object.fromEntries(texts);
};

const svelteApp = async () => {
  const source = await readFile(join(HERE, "../../gateway/demo/examples/Plan.svelte"), "utf8");
  const { js } = compile(source, { filename: "Plan.svelte", css: "injected", generate: "client" });
  return `${js.code.replace("export default function", "function")}\nexport { Plan }; export { mount } from "svelte";`;
};

const vendored = async () => {
  const options = { define: { "process.env.NODE_ENV": '"production"', __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false" }, legalComments: /** @type {const} */ ("inline") };
  return {
    [join(VENDOR, "react.js")]: await bundle(
      `export { createElement } from "react"; export { createRoot } from "react-dom/client"; export { usePlanwire } from "./react.js"`,
      options,
    ),
    [join(VENDOR, "vue.js")]: await bundle(`export { createApp, h, computed } from "vue"; export { usePlanwire } from "./vue.js"`, options),
    [join(VENDOR, "openfeature.js")]: await bundle(`export { OpenFeature, ProviderEvents } from "@openfeature/web-sdk"`, options),
    [join(VENDOR, "svelte.js")]: await bundle(await svelteApp(), { ...options, conditions: ["browser"] }),
  };
};

/** @returns {Promise<Record<string, string>>} path -> text */
export const artefacts = async () => ({
  [join(HERE, "planwire.classic.js")]: await classic(),
  ...(await declarations()),
  ...(await vendored()),
});
