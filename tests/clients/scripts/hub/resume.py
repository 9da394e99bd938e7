"""Download a file over a connection that breaks: as a person does, by asking again."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub

download: Any = huggingface_hub.hf_hub_download
repo, path = sys.argv[1:]
# Before 0.23 a download was resumed only on demand.
wish = {"resume_download": True} if huggingface_hub.__version__ < "0.23" else {}
try:
    file = Path(download(repo, path, **wish))
except OSError:
    file = Path(download(repo, path, **wish))
json.dump({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}, sys.stdout)
