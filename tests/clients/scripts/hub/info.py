"""Ask everything about a repository, and search for it."""

import json
import sys
from typing import Any

from huggingface_hub import HfApi

api: Any = HfApi()
repo = sys.argv[1]
info = api.model_info(repo, files_metadata=True)
refs = api.list_repo_refs(repo)
# The tree was `list_files_info` before 0.20.
tree = api.list_repo_tree if hasattr(api, "list_repo_tree") else api.list_files_info
entries = tree(repo, recursive=True) if hasattr(api, "list_repo_tree") else tree(repo)
report = {
    "sha": info.sha,
    "files": {
        one.rfilename: [one.size, dict(one.lfs)["sha256"] if one.lfs else None]
        for one in info.siblings
    },
    "listed": sorted(api.list_repo_files(repo)),
    "tree": {
        getattr(one, "path", None) or one.rfilename: one.size
        for one in entries
        if getattr(one, "size", None) is not None
    },
    "found": [getattr(one, "id", None) or one.modelId for one in api.list_models(search="model")],
    "refs": {one.ref: one.target_commit for one in [*refs.branches, *refs.tags]},
}
json.dump(report, sys.stdout)
