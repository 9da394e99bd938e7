// Download one file, and tell its digest.
import { args, bytes, hub, hubUrl, report, sha256 } from "./hub.mjs";

const [repo, revision, path] = args;
const accessToken = process.env.HF_TOKEN;
const blob = await hub.downloadFile({ repo, revision, path, hubUrl, accessToken });
report({ sha256: sha256(await bytes(blob)) });
