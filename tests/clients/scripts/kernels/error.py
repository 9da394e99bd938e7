"""Load a version of a kernel that cannot be had, and print what is raised."""

import json
import sys

from kernels import get_kernel  # type: ignore[import-not-found]

repo_id, version, _ = sys.argv[1:]
try:
    get_kernel(repo_id, version=int(version))
except Exception as exc:  # noqa: BLE001
    json.dump({"kinds": [type(exc).__name__], "message": str(exc)}, sys.stdout)
