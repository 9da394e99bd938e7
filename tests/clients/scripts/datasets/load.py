"""Load a dataset, whole or as a stream, and tell its rows."""

import json
import sys

from datasets import load_dataset  # type: ignore[import-not-found]

name, revision, how = sys.argv[1:]
rows = load_dataset(name, revision=revision, split="train", streaming=how == "streamed")
report = {"rows": list(rows)}
sys.stdout.write(f"\n{json.dumps(report)}\n")
