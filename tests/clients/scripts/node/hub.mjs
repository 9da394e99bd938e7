// What the other scripts share: the library, and the address that it does not read by itself.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";

export const hub = createRequire(import.meta.url)("@huggingface/hub");
export const hubUrl = process.env.HF_ENDPOINT;
export const args = process.argv.slice(2);

export function sha256(body) {
  return createHash("sha256").update(body).digest("hex");
}

export async function bytes(blob) {
  return Buffer.from(await blob.arrayBuffer());
}

export function report(value) {
  process.stdout.write(`\n${JSON.stringify(value)}\n`);
}
