"""Download a repository, or the files that are named, and tell the digest of each file."""

import hashlib
import json
import os
import sys
from pathlib import Path

from huggingface_hub import snapshot_download

repo, *paths = sys.argv[1:]
workers = int(os.environ.get("MAX_WORKERS", "8"))
folder = Path(snapshot_download(repo, allow_patterns=paths or None, max_workers=workers))
digests = {
    file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
    for file in folder.rglob("*")
    if file.is_file()
}
json.dump(digests, sys.stdout)
