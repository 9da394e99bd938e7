// Ask whether a repository can be read, and print what is thrown.
import { args, hub, hubUrl, report } from "./hub.mjs";

try {
  await hub.checkRepoAccess({ repo: args[0], hubUrl });
  report({ message: "" });
} catch (error) {
  report({ message: error.message });
}
