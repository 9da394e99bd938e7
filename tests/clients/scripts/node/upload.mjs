// Try to upload a file, and tell what was thrown.
import { args, hub, hubUrl, report } from "./hub.mjs";

const file = { path: "new.txt", content: new Blob(["new"]) };
try {
  await hub.uploadFile({ repo: args[0], accessToken: "hf_any", hubUrl, file });
  report({ kinds: ["none"], message: "" });
} catch (error) {
  report({ kinds: [error.constructor.name, `${error.statusCode}`], message: error.message });
}
