"""Get one file of a revision as the file system does, and tell its digest."""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import HfFileSystem

repo, revision, path = sys.argv[1:]
HfFileSystem().get_file(f"{repo}/{path}", "out", revision=revision)
json.dump({"sha256": hashlib.sha256(Path("out").read_bytes()).hexdigest()}, sys.stdout)
