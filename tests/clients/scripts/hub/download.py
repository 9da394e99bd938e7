"""Download one file of a model, or of datasets/ORG/NAME, and tell its digest."""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import hf_hub_download

repo, revision, path = sys.argv[1:]
repo_type = "dataset" if repo.startswith("datasets/") else None
repo_id = repo.removeprefix("datasets/")
file = Path(hf_hub_download(repo_id, path, revision=revision, repo_type=repo_type))
json.dump({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}, sys.stdout)
