"""Load a dataset that is not to be had, and tell what was raised."""

import json
import sys

from datasets import load_dataset  # type: ignore[import-not-found]

name, revision, _ = sys.argv[1:]
try:
    load_dataset(name, revision=revision)
except (OSError, ValueError) as exc:
    causes = [exc, exc.__cause__, exc.__cause__ and exc.__cause__.__cause__]
    report = {
        "kinds": [type(cause).__name__ for cause in causes if cause],
        "message": " ".join(str(cause) for cause in causes if cause),
    }
    json.dump(report, sys.stdout)
