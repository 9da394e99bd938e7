"""What a pull brought for a model of OpenLLM 0.6, kept so that a check can tell what is missing.

openllm/<model repository>__<tag>__<platform>.json   the closure
openllm/<the same>.txt                               its wheels as constraints, for uv
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson

from mirror.fill.wheels import Platform, WantedWheel
from mirror.repos import Repo
from mirror.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mirror.fill.openllm import Bento


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A hub repository at a revision, and the files that the bento wants, with their sizes; none
    where the pull of it failed."""

    repo: Repo
    revision: str
    files: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Closure:
    """What a bento needs on a platform. `repository` is the address of its model repository,
    `digest` that of the bento as it was."""

    repository: str
    tag: str
    digest: str
    platform: Platform
    models: tuple[PinnedModel, ...]
    wheels: tuple[WantedWheel, ...]

    @property
    def name(self) -> str:
        """The name of its files."""
        owner, _, repository = self.repository.partition("/")[2].partition("/")
        tag = self.tag.replace(":", "__")
        return f"{owner}--{repository}__{tag}__{self.platform.uv_name}"

    def constraints(self, data: Path) -> Path:
        return data / "openllm" / f"{self.name}.txt"

    def write(self, data: Path) -> None:
        """Keep it."""
        constraints = self.constraints(data)
        constraints.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{wheel.pin}\n" for wheel in self.wheels)
        write_atomically(constraints, text.encode())
        body = {
            "repository": self.repository,
            "tag": self.tag,
            "digest": self.digest,
            "platform": asdict(self.platform),
            "models": [
                {"repo": str(one.repo), "revision": one.revision, "files": dict(one.files)}
                for one in self.models
            ],
            "wheels": [
                {key: value for key, value in asdict(wheel).items() if key != "url"}
                for wheel in self.wheels
            ],
        }
        file = constraints.with_suffix(".json")
        write_atomically(file, orjson.dumps(body, option=orjson.OPT_INDENT_2))

    def forget(self, data: Path) -> None:
        """Remove what `write` wrote."""
        self.constraints(data).with_suffix(".json").unlink(missing_ok=True)
        self.constraints(data).unlink(missing_ok=True)

    @classmethod
    def read_all(cls, data: Path, repository: str, tags: Iterable[str] = ()) -> list[Closure]:
        """The closures of a model repository: those of some tags, else all. Damaged ones are left
        out."""
        found, wanted = [], set(tags)
        for file in sorted((data / "openllm").glob("*.json")):
            try:
                one = cls._parse(orjson.loads(file.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if one.repository == repository and (not wanted or one.tag in wanted):
                found.append(one)
        return found

    @classmethod
    def _parse(cls, told: Mapping[str, Any]) -> Closure:
        models = [
            PinnedModel(Repo.parse(one["repo"]), one["revision"], dict(one["files"]))
            for one in told["models"]
        ]
        wheels = [WantedWheel(**one) for one in told["wheels"]]
        return cls(
            told["repository"],
            told["tag"],
            told["digest"],
            Platform(**told["platform"]),
            tuple(models),
            tuple(wheels),
        )

    def is_of(self, bento: Bento) -> bool:
        """Whether it is what the bento needs as it is now."""
        return (self.tag, self.digest) == (bento.tag, bento.digest)
