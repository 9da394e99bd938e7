"""Download a repository, and tell the digest of each file."""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import snapshot_download

folder = Path(snapshot_download(sys.argv[1]))
digests = {
    file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
    for file in folder.rglob("*")
    if file.is_file()
}
json.dump(digests, sys.stdout)
