// Ask everything about a repository, and search for it.
import { args, hub, hubUrl, report } from "./hub.mjs";

const [repo] = args;
const { sha } = await hub.modelInfo({ name: repo, hubUrl, additionalFields: ["sha"] });
const files = {};
for await (const one of hub.listFiles({ repo, hubUrl, recursive: true })) {
  if (one.type === "file") {
    files[one.path] = [one.size, one.lfs?.oid ?? null];
  }
}
const found = [];
for await (const one of hub.listModels({ search: { query: "model" }, hubUrl })) {
  found.push(one.name);
}
const commits = [];
for await (const one of hub.listCommits({ repo, hubUrl })) {
  commits.push(one.oid);
}
const tree = Object.fromEntries(Object.entries(files).map(([path, [size]]) => [path, size]));
report({ sha, files, listed: Object.keys(files).sort(), tree, found, commits });
