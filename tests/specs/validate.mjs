// Prints what @asyncapi/parser has to say about an AsyncAPI document, as JSON; exits 1 where it has errors.
//
//   node validate.mjs FILE

import { readFile } from "node:fs/promises";
import process from "node:process";
import { Parser } from "@asyncapi/parser";

const ERROR = 0;

const { document, diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
const found = diagnostics.map(({ code, message, path, severity }) => ({
  severity: ["error", "warning", "information", "hint"][severity],
  code,
  message,
  path: path.join("."),
}));
console.log(JSON.stringify({
  version: document?.version() ?? null,
  messages: document?.allMessages().all().map((message) => message.id()) ?? [],
  diagnostics: found,
}));
process.exitCode = diagnostics.some(({ severity }) => severity === ERROR) ? 1 : 0;
