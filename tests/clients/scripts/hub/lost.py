"""Download a repository that lacks a file, and tell what was raised, with its causes."""

import json
import sys

from huggingface_hub import snapshot_download

errors: list[str] = []
try:
    snapshot_download(sys.argv[1])
except (OSError, RuntimeError, ValueError) as exc:
    found: BaseException | None = exc
    while found is not None:
        errors.append(f"{type(found).__name__}: {found}")
        found = found.__cause__
json.dump(errors, sys.stdout)
