"""Load the config and the tokenizer of a model, by its id or from its folder."""

import json
import sys

from transformers import AutoConfig, AutoTokenizer  # type: ignore[import-not-found]

model, revision = sys.argv[1:]
config = AutoConfig.from_pretrained(model, revision=revision)
tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
report = {
    "config": config.to_diff_dict(),
    "ids": tokenizer("the mirror serves a model .")["input_ids"],
}
report["config"].pop("_name_or_path", None)
sys.stdout.write(f"\n{json.dumps(report)}\n")
