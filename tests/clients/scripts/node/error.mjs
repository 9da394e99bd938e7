// Ask for something that is not to be had, and tell what was thrown: for a file it is nothing.
import { args, hub, hubUrl, report } from "./hub.mjs";

const [repo, revision, path] = args;
try {
  const blob = await hub.downloadFile({ repo, revision, path, hubUrl });
  report({ kinds: [blob === null ? "null" : "Blob"], message: "" });
} catch (error) {
  report({ kinds: [error.constructor.name, `${error.statusCode}`], message: error.message });
}
