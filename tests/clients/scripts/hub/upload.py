"""Try to upload a file, and tell what was raised."""

import json
import sys

from huggingface_hub import HfApi

try:
    HfApi(token="hf_any").upload_file(
        path_or_fileobj=b"new", path_in_repo="new.txt", repo_id=sys.argv[1]
    )
except OSError as exc:
    kinds = [kind.__name__ for kind in type(exc).__mro__]
    json.dump({"kinds": kinds, "message": str(exc)}, sys.stdout)
