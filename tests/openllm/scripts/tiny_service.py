"""The service of the bento `tiny`: it tells what model it was given."""

from __future__ import annotations

import json
from pathlib import Path

import bentoml


@bentoml.service(
    name="tiny",
    resources={"cpu": 1},
    envs=[{"name": "HF_TOKEN"}, {"name": "HF_HUB_DISABLE_PROGRESS_BARS", "value": "1"}],
)
class LLM:
    model = bentoml.models.HuggingFaceModel(
        "hubmirror/demo", exclude=["original", "*.pth", "*.pt", "original/**/*"]
    )

    @bentoml.api  # type: ignore[untyped-decorator]
    def facts(self) -> dict[str, object]:
        folder = Path(self.model)
        with (folder / "model.safetensors").open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        config = json.loads((folder / "config.json").read_text())
        return {
            "folder": folder.name,
            "files": sorted(path.name for path in folder.iterdir()),
            "tensors": len(header),
            "architectures": config["architectures"],
        }
