"""Resolve a model as BentoML does where a service names it, and print what came of it."""

import json
import sys
from pathlib import Path

import bentoml

model = bentoml.models.HuggingFaceModel(sys.argv[1])
folder = Path(model.resolve())
told = {"commit_hash": model.commit_hash, "files": sorted(one.name for one in folder.iterdir())}
sys.stdout.write(f"{json.dumps(told)}\n")
