"""Download one file, and tell its digest."""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import hf_hub_download

repo, revision, path = sys.argv[1:]
file = Path(hf_hub_download(repo, path, revision=revision))
json.dump({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}, sys.stdout)
