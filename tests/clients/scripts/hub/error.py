"""Ask for something that is not to be had, and tell what was raised."""

import json
import sys

from huggingface_hub import hf_hub_download

repo, revision, path = sys.argv[1:]
try:
    hf_hub_download(repo, path, revision=revision)
except (OSError, ValueError) as exc:
    kinds = [kind.__name__ for kind in type(exc).__mro__]
    json.dump({"kinds": kinds, "message": str(exc)}, sys.stdout)
