"""Load a model that is not to be had, and tell what was raised."""

import json
import sys

from transformers import AutoConfig  # type: ignore[import-not-found]

model, revision, _ = sys.argv[1:]
try:
    AutoConfig.from_pretrained(model, revision=revision)
except OSError as exc:
    causes = [exc, exc.__cause__, exc.__cause__ and exc.__cause__.__cause__]
    report = {
        "kinds": [type(cause).__name__ for cause in causes if cause],
        "message": " ".join(str(cause) for cause in causes if cause),
    }
    json.dump(report, sys.stdout)
