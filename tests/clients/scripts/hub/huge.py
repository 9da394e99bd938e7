"""Download one file, which may be larger than memory, and tell its digest and what it cost."""

import hashlib
import json
import resource
import sys
import time

from huggingface_hub import hf_hub_download

repo, path = sys.argv[1:]
began = time.monotonic()
place = hf_hub_download(repo, path)
report = {
    "seconds": time.monotonic() - began,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}
digest = hashlib.sha256()
with open(place, "rb", buffering=0) as file:  # noqa: PTH123
    while part := file.read(1 << 20):
        digest.update(part)
json.dump({"sha256": digest.hexdigest(), **report}, sys.stdout)
