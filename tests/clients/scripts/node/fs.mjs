// Read a part of a file, and the whole.
import { args, bytes, hub, hubUrl, report, sha256 } from "./hub.mjs";

const [repo, path, first, last] = args;
const blob = await hub.downloadFile({ repo, path, hubUrl });
const part = await bytes(blob.slice(Number(first), Number(last) + 1));
report({
  part: part.toString("hex"),
  whole: sha256(await bytes(blob)),
  exists: await hub.fileExists({ repo, path, hubUrl }),
});
