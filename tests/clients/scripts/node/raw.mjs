// Read the pointer of an LFS file.
import { args, bytes, hub, hubUrl, report } from "./hub.mjs";

const [repo, path] = args;
const blob = await hub.downloadFile({ repo, path, raw: true, hubUrl });
report({ text: (await bytes(blob)).toString() });
