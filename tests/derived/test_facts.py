"""What a repository's own files say about it, where the contract suite does not look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirror.derived.facts import Facts
from mirror.derived.state import State
from mirror.sources.folder import Folder
from tests.folders import MODEL, write


def _facts(folder: Path, plain: Folder, state: State, config: dict[str, Any]) -> Facts:
    write(folder / "plain" / "config.json", json.dumps(config).encode())
    return Facts(plain.snapshot(MODEL, "main"), state)


@pytest.mark.parametrize(
    ("architecture", "more", "auto_model", "task"),
    [
        ("LlamaForCausalLM", {}, "AutoModelForCausalLM", "text-generation"),
        ("T5ForConditionalGeneration", {}, "AutoModelForSeq2SeqLM", None),
        (
            "Glm4vForConditionalGeneration",
            {"vision_config": {}},
            "AutoModelForImageTextToText",
            "image-text-to-text",
        ),
        ("BertModel", {}, "AutoModel", None),
    ],
)
def test_the_task_follows_from_the_architecture(
    tmp_path: Path, plain: Folder, state: State, architecture: str, more: dict[str, Any],
    auto_model: str, task: str | None,
) -> None:  # fmt: skip
    facts = _facts(tmp_path, plain, state, {"architectures": [architecture], **more})
    assert (facts.transformers_info["auto_model"], facts.pipeline_tag) == (auto_model, task)


def test_code_that_comes_with_a_model_is_tagged(
    tmp_path: Path, plain: Folder, state: State
) -> None:
    config = {"model_type": "kimi", "auto_map": {"AutoConfig": "configuration_kimi.Kimi"}}
    assert "custom_code" in _facts(tmp_path, plain, state, config).tags
