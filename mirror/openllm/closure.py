"""Stores the closure of a bento: the list of models and wheels that OpenLLM 0.6 needs to start it.

`hubmirror openllm pull` writes a closure, and `hubmirror openllm check` reads it.

openllm/<model repository>__<tag>__<platform>.json   the closure
openllm/<same name>.txt                              its wheels as uv constraints with hashes
"""

from __future__ import annotations

import glob
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from mirror.config.specs import RepoSpec
from mirror.core.errors import ConfigError
from mirror.core.files import inside, read_regular
from mirror.core.repo import Repo
from mirror.derived.state import write_atomically
from mirror.openllm.bento import is_tag
from mirror.openllm.wheels import Platform, WantedWheel, file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.openllm.bento import Bento


_MAX_BYTES = 64 * 1024 * 1024
_REPOSITORY = re.compile(r"(?:(?!\.)[\w.-]{1,100}/){2}(?!\.)[\w.-]{1,100}")


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A hub repository at a revision.

    `files` are the sizes in bytes of the files that the bento needs, by path. It is empty if the
    pull of the repository failed.
    """

    repo: Repo
    revision: str
    files: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Closure:
    """The models and the wheels that a bento needs on a platform.

    `repository` is the name of its model repository (`ModelRepository.name`), and `digest` is
    `Bento.digest` at the time of the pull.
    """

    repository: str
    tag: str
    digest: str
    platform: Platform
    models: tuple[PinnedModel, ...]
    wheels: tuple[WantedWheel, ...]

    @property
    def name(self) -> str:
        """The name of its two files, without the extension."""
        owner, _, repository = self.repository.partition("/")[2].partition("/")
        tag = self.tag.replace(":", "__")
        return f"{owner}--{repository}__{tag}__{self.platform.uv_name}"

    def constraints(self, data: Path) -> Path:
        """The path of its constraints file."""
        return data / "openllm" / f"{self.name}.txt"

    def write(self, data: Path) -> None:
        """Write both files."""
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
                {"repo": str(model.repo), "revision": model.revision, "files": dict(model.files)}
                for model in self.models
            ],
            "wheels": [
                {key: value for key, value in asdict(wheel).items() if key != "url"}
                for wheel in self.wheels
            ],
        }
        file = constraints.with_suffix(".json")
        write_atomically(file, orjson.dumps(body, option=orjson.OPT_INDENT_2))

    def remove(self, data: Path) -> None:
        """Remove both files."""
        self.constraints(data).with_suffix(".json").unlink(missing_ok=True)
        self.constraints(data).unlink(missing_ok=True)

    @classmethod
    def read_all(cls, data: Path, repository: str, tags: Iterable[str] = ()) -> list[Closure]:
        """The closures of a model repository; only those of `tags`, if given.

        Damaged files are skipped.
        """
        wanted_tags = set(tags)
        return [
            closure
            for closure in read_closures(data)
            if closure.repository == repository and (not wanted_tags or closure.tag in wanted_tags)
        ]

    @classmethod
    def parse(cls, parsed: Mapping[str, Any]) -> Closure:
        """Read the JSON object that `write` writes.

        Raises ConfigError or any built-in exception for another object.
        """
        repository, tag, digest = (parsed[key] for key in ("repository", "tag", "digest"))
        if not _REPOSITORY.fullmatch(repository) or not is_tag(tag):
            raise ValueError("a name is not safe as a part of a path")
        return cls(
            repository,
            tag,
            digest,
            Platform(**parsed["platform"]),
            tuple(_model(model) for model in parsed["models"]),
            tuple(WantedWheel(**wheel) for wheel in parsed["wheels"]),
        )

    def is_of(self, bento: Bento) -> bool:
        """Whether the closure was made for this bento with its current content."""
        return (self.tag, self.digest) == (bento.tag, bento.digest)


def read_closures(data: Path) -> Iterator[Closure]:
    """All closures of a data folder. Damaged files are skipped."""
    folder = data / "openllm"
    for file in sorted(folder.glob("*.json")):
        try:
            real_path = inside(file, folder)
            if real_path is not None:
                yield Closure.parse(orjson.loads(read_regular(real_path, _MAX_BYTES, follow=False)))
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
                ConfigError):  # fmt: skip
            continue


def pinned_specs(data: Path) -> list[RepoSpec]:
    """The revisions and files that the closures of a data folder need."""
    return [
        RepoSpec(model.repo, model.revision, include=tuple(map(glob.escape, model.files)))
        for closure in read_closures(data)
        for model in closure.models
    ]


def _model(parsed: Mapping[str, Any]) -> PinnedModel:
    files, revision = dict(parsed["files"]), parsed["revision"]
    if not isinstance(revision, str) or any(type(size) is not int for size in files.values()):
        raise TypeError("a field of a model has the wrong type")
    return PinnedModel(Repo.parse(parsed["repo"]), revision, files)


def check_conflicts(data: Path, wheels: Sequence[WantedWheel]) -> None:
    """Refuse a wheel that would overwrite a different wheel of the same name.

    The existing wheel belongs to the closure of another model, or the operator added it. A damaged
    file of a closure may be overwritten. Raises ConfigError.
    """
    closure_names: dict[str, dict[str, str]] = {}  # by filename, then by sha256
    for closure in read_closures(data):
        for wheel in closure.wheels:
            closure_names.setdefault(wheel.filename, {})[wheel.sha256] = closure.name
    for wheel in wheels:
        known = closure_names.get(wheel.filename, {})
        for sha256, closure_name in known.items():
            if sha256 != wheel.sha256:
                raise ConfigError(_CLOSURE_CONFLICT.format(wheel, sha256, closure_name))
        if not known and (data / "wheels" / wheel.filename).exists():
            _check_file(data / "wheels", wheel)


def _check_file(folder: Path, wheel: WantedWheel) -> None:
    sha256 = file_sha256(folder, replace(wheel, size=0))
    if sha256 != wheel.sha256:
        raise ConfigError(_FILE_CONFLICT.format(wheel, sha256 or "that cannot be computed"))


_CLOSURE_CONFLICT = (
    "The pull needs {0.filename} with the sha256 {0.sha256}, and another model has this wheel with "
    "the sha256 {1} (see openllm/{2}.json). Nothing was overwritten. Find out which one is right. "
    "To use the new one, remove wheels/{0.filename}, openllm/{2}.json and openllm/{2}.txt, and "
    "pull again."
)
_FILE_CONFLICT = (
    "The pull needs {0.filename} with the sha256 {0.sha256}, and wheels/ has a file of this name "
    "with the sha256 {1}, which no pull downloaded. Nothing was overwritten. To use the new one, "
    "remove wheels/{0.filename}, and pull again."
)
