/**
 * For back ends (Node 20 and later, Deno, Bun, workers), never for a page: it needs a secret. Mints the signed reference
 * that names a checkout's tenant beyond doubt in the provider's metadata.
 */

const bytes = (/** @type {string} */ text) => new TextEncoder().encode(text);

/**
 * The signed reference to a tenant, for the metadata field that names the tenant.
 *
 * @param {string} secret the first of PLANWIRE_TENANT_SECRET, at least 32 bytes
 * @param {string} tenantId
 * @param {string} [environment] the environment of the provider's account: live, sandbox
 * @returns {Promise<string>} at most 197 letters, digits, - and _
 */
export const tenantReference = async (secret, tenantId, environment = "live") => {
  const key = bytes(secret);
  const named = bytes(tenantId);
  if (key.length < 32) throw new RangeError("the secret is shorter than 32 bytes");
  if (named.length < 1 || named.length > 128) throw new RangeError("a tenant id has 1 to 128 bytes");
  const signing = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const signed = bytes(`planwire tenant\n${environment}\n${tenantId}`);
  const mac = new Uint8Array(await crypto.subtle.sign("HMAC", signing, signed)).subarray(0, 16);
  const binary = String.fromCharCode(...mac, ...named);
  return "pwt1_" + btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
};
