/**
 * For back ends (Node 20 and later, Deno, Bun, workers), never for a page: it needs a secret. Mints the signed reference
 * that names a checkout's tenant beyond doubt in the provider's metadata.
 */

import { topic } from "./planwire.js";

const bytes = (/** @type {string} */ text) => new TextEncoder().encode(text);

/**
 * The signed reference to a tenant, for the metadata field that names the tenant.
 *
 * @param {string} secret the first of PLANWIRE_TENANT_SECRET, at least 32 bytes
 * @param {string | number} tenantId  as your application has it, not encoded
 * @param {string} [environment] the environment of the provider's account: live, sandbox
 * @returns {Promise<string>} at most 197 letters, digits, - and _
 * @throws {TypeError} the id names nobody, such as `undefined`, or is too long
 */
export const tenantReference = async (secret, tenantId, environment = "live") => {
  const key = bytes(secret);
  const id = String(tenantId);
  const named = bytes(id);
  if (key.length < 32) throw new RangeError("the secret is shorter than 32 bytes");
  topic("tenant", tenantId); // throws for what is no id
  if (id != id.trim()) throw new TypeError(`${JSON.stringify(id)} begins or ends with white space`);
  if (id.startsWith("pwt1_")) throw new TypeError("it is a signed reference: give the id of the tenant that it names");
  const signing = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const signed = bytes(`planwire tenant\n${environment}\n${id}`);
  const mac = new Uint8Array(await crypto.subtle.sign("HMAC", signing, signed)).subarray(0, 16);
  const binary = String.fromCharCode(...mac, ...named);
  return "pwt1_" + btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
};
