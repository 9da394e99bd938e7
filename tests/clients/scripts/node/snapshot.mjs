// Download a repository, and tell the digest of each file.
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { args, hub, hubUrl, report, sha256 } from "./hub.mjs";

const cacheDir = join(process.env.HF_HOME, "hub");
const folder = await hub.snapshotDownload({ repo: args[0], cacheDir, hubUrl });
const digests = {};
for (const path of await readdir(folder, { recursive: true })) {
  if ((await stat(join(folder, path))).isFile()) {
    digests[path] = sha256(await readFile(join(folder, path)));
  }
}
report(digests);
