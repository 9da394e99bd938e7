"""Read a part of a file, and the whole as a stream; list and glob."""

import hashlib
import json
import sys

from huggingface_hub import HfFileSystem

repo, path, first, last = sys.argv[1:]
fs = HfFileSystem()
with fs.open(f"{repo}/{path}", "rb", block_size=1000) as file:
    file.seek(int(first))
    part = file.read(int(last) - int(first) + 1)
with fs.open(f"{repo}/{path}", "rb", block_size=0) as file:
    whole = file.read()
report = {
    "part": part.hex(),
    "whole": hashlib.sha256(whole).hexdigest(),
    "found": [name.removeprefix(f"{repo}/") for name in fs.find(repo)],
    "globbed": [name.removeprefix(f"{repo}/") for name in fs.glob(f"{repo}/*.json")],
}
json.dump(report, sys.stdout)
