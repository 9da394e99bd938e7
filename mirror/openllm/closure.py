"""What a pull brought for a model of OpenLLM 0.6, kept so that a check can tell what is missing.

openllm/<model repository>__<tag>__<platform>.json   the closure
openllm/<the same>.txt                               its wheels as constraints with sums, for uv
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.errors import ConfigError
from mirror.core.files import inside, read_regular
from mirror.core.repo import Repo
from mirror.derived.state import write_atomically
from mirror.openllm.bento import is_tag
from mirror.openllm.wheels import Platform, WantedWheel, sum_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.openllm.bento import Bento


_MAX_BYTES = 64 * 1024 * 1024
_REPOSITORY = re.compile(r"(?:(?!\.)[\w.-]{1,100}/){2}(?!\.)[\w.-]{1,100}")


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
        text = "".join(f"{wheel.pin} --hash=sha256:{wheel.sha256}\n" for wheel in self.wheels)
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
        wanted = set(tags)
        return [
            one
            for one in read_closures(data)
            if one.repository == repository and (not wanted or one.tag in wanted)
        ]

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> Closure:
        """What `write` wrote. Raises ConfigError and any builtin error for anything else."""
        repository, tag, digest = (told[key] for key in ("repository", "tag", "digest"))
        if not _REPOSITORY.fullmatch(repository) or not is_tag(tag):
            raise ValueError("a name cannot be a part of a path")
        return cls(
            repository,
            tag,
            digest,
            Platform(**told["platform"]),
            tuple(_model(one) for one in told["models"]),
            tuple(WantedWheel(**one) for one in told["wheels"]),
        )

    def is_of(self, bento: Bento) -> bool:
        """Whether it is what the bento needs as it is now."""
        return (self.tag, self.digest) == (bento.tag, bento.digest)


def read_closures(data: Path) -> Iterator[Closure]:
    """All closures that can be read; damaged ones are left out."""
    folder = data / "openllm"
    for file in sorted(folder.glob("*.json")):
        try:
            place = inside(file, folder)
            if place is not None:
                yield Closure.parse(orjson.loads(read_regular(place, _MAX_BYTES, follow=False)))
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
                ConfigError):  # fmt: skip
            continue


def _model(told: Mapping[str, Any]) -> PinnedModel:
    files, revision = dict(told["files"]), told["revision"]
    if not isinstance(revision, str) or any(type(size) is not int for size in files.values()):
        raise TypeError("a field of a model has a wrong type")
    return PinnedModel(Repo.parse(told["repo"]), revision, files)


def check_sums(data: Path, wheels: Sequence[WantedWheel]) -> None:
    """Refuse wheels that would take the place of others: of another model's, by its closure, or of
    one that the operator has put there. A damaged file may be replaced.

    Raises ConfigError.
    """
    named: dict[str, dict[str, str]] = {}
    for closure in read_closures(data):
        for one in closure.wheels:
            named.setdefault(one.filename, {})[one.sha256] = closure.name
    for wheel in wheels:
        sums = named.get(wheel.filename, {})
        for other, closure_name in sums.items():
            if other != wheel.sha256:
                raise ConfigError(_OF_ANOTHER.format(wheel, other, closure_name))
        if not sums and (data / "wheels" / wheel.filename).exists():
            _check_file(data / "wheels", wheel)


def _check_file(folder: Path, wheel: WantedWheel) -> None:
    found = sum_of(folder, replace(wheel, size=0))
    if found != wheel.sha256:
        raise ConfigError(_OF_NOBODY.format(wheel, found or "that cannot be computed"))


_OF_ANOTHER = (
    "{0.filename} is wanted with the sha256 {0.sha256}, and another model was pulled with "
    "{1}: see openllm/{2}.json. Nothing was overwritten. Find out which one is right; to take the "
    "new one, remove wheels/{0.filename}, openllm/{2}.json and openllm/{2}.txt, and pull again."
)
_OF_NOBODY = (
    "{0.filename} is wanted with the sha256 {0.sha256}, and wheels/ holds one with the sha256 {1}, "
    "which no pull has brought. Nothing was overwritten. To take the new one, remove "
    "wheels/{0.filename}, and pull again."
)
