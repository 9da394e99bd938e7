"""What a model of OpenLLM 0.6 needs to start: its bento, the hub repository, and the wheels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import yaml

from mirror.config import RepoSpec
from mirror.errors import ConfigError
from mirror.fill.wheels import Platform, WantedWheel
from mirror.repos import Repo, RepoType
from mirror.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.fill.git import ModelRepository

_START = "bentoml/bentos/"
_GRACE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Bento:
    """One bento of a model repository. `requirements` are the lines of its requirements file."""

    name: str
    version: str
    branch: str
    told: Mapping[str, Any]
    requirements: tuple[str, ...]

    @property
    def tag(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def aliases(self) -> list[str]:
        """Other names of the version (`openllm.repo._complete_alias`)."""
        labels = self.told.get("labels")
        text = (labels.get("aliases") if isinstance(labels, dict) else "") or ""
        return [one.strip() for one in str(text).split(",") if one.strip()]

    @property
    def python(self) -> str:
        """The version that its environment has (`openllm.venv`). Raises ConfigError."""
        image = self.told.get("image")
        version = image.get("python_version") if isinstance(image, dict) else None
        if not version:
            raise ConfigError(f"The bento {self.tag} names no image.python_version.")
        return str(version)

    @property
    def newest(self) -> datetime | None:
        """A week after it was made: what its requirements meant then is known to have worked."""
        try:
            made = datetime.fromisoformat(str(self.told.get("creation_time")))
        except ValueError:
            return None
        return (made if made.tzinfo else made.replace(tzinfo=UTC)) + _GRACE

    def specs(self) -> list[RepoSpec]:
        """The hub repositories of its models, pinned. Raises ConfigError for any other registry."""
        services = [one for one in _list(self.told.get("services")) if isinstance(one, dict)]
        models = [*_list(self.told.get("models"))]
        models += [model for service in services for model in _list(service.get("models"))]
        specs: dict[RepoSpec, None] = {}
        for model in models:
            if not isinstance(model, dict) or model.get("registry") != "huggingface":
                registry = model.get("registry") if isinstance(model, dict) else model
                raise ConfigError(
                    f"The bento {self.tag} takes a model from {registry!r}, which this mirror "
                    "cannot bring: it knows Hugging Face alone. Bring that one yourself."
                )
            specs[_spec(self.tag, model.get("metadata"))] = None
        return list(specs)


def bentos(repository: ModelRepository, branch: str) -> Iterator[Bento]:
    """All bentos of a branch; those whose bento.yaml is broken raise ConfigError."""
    found = repository.files(branch, "/bento.yaml")
    for path in sorted(found):
        if not path.startswith(_START) or path.count("/") != 4:
            continue
        name, version = path.removeprefix(_START).split("/")[:2]
        yield Bento(name, version, branch, _parse(path, found[path]), ())


def find(repository: ModelRepository, branches: Sequence[str], text: str) -> Bento:
    """The bento that `NAME[:VERSION or alias]` means, as `openllm serve` reads it.

    Raises ConfigError, naming what there is.
    """
    name, _, version = text.partition(":")
    here = [bento for branch in branches for bento in bentos(repository, branch)]
    named = [bento for bento in here if bento.name == name]
    chosen = [bento for bento in named if not version or version in (bento.version, *bento.aliases)]
    if not chosen:
        names = sorted({bento.name for bento in here})
        tags = sorted({one for bento in named for one in (bento.version, *bento.aliases)})
        has = f"{name} has: {', '.join(tags)}" if named else f"There are: {', '.join(names[:30])}"
        raise ConfigError(f"No bento answers to {text}. {has}.")
    # As OpenLLM does, which looks into its first repository alone.
    first = [one for one in chosen if one.branch == chosen[0].branch]
    if len(first) > 1 and not version:
        several = ", ".join(sorted(one.version for one in first))
        raise ConfigError(f"{text} may mean several bentos: {several}. Name a version.")
    bento = first[-1]
    folder = f"{_START}{bento.name}/{bento.version}/env/python"
    for file in ("requirements.lock.txt", "requirements.txt"):
        if (body := repository.read(bento.branch, f"{folder}/{file}")) is not None:
            lines = [line.strip() for line in body.decode(errors="replace").splitlines()]
            kept = tuple(line for line in lines if line and not line.startswith("#"))
            return Bento(bento.name, bento.version, bento.branch, bento.told, kept)
    raise ConfigError(f"The bento {bento.tag} has no requirements, so OpenLLM cannot start it.")


@dataclass(frozen=True, slots=True)
class Closure:
    """What a pull brought for a model, so that a check can tell what is missing."""

    tag: str
    branch: str
    aliases: tuple[str, ...]
    platform: Platform
    specs: tuple[RepoSpec, ...]
    wheels: tuple[WantedWheel, ...]

    @property
    def name(self) -> str:
        """The name of its files in openllm/ of the data folder."""
        return f"{self.tag.replace(':', '__')}__{self.platform.uv_name}"

    def write(self, data: Path) -> None:
        """Keep it, and the wheels' pins as a constraints file, which the server hands to uv."""
        folder = data / "openllm"
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{wheel.pin}\n" for wheel in self.wheels)
        write_atomically(folder / f"{self.name}.txt", text.encode())
        body = {
            "tag": self.tag,
            "branch": self.branch,
            "aliases": list(self.aliases),
            "platform": {
                "python": self.platform.python,
                "glibc": self.platform.glibc,
                "machine": self.platform.machine,
            },
            "specs": [
                {
                    "repo": str(spec.repo),
                    "revision": spec.revision,
                    "include": spec.include,
                    "exclude": spec.exclude,
                }
                for spec in self.specs
            ],
            "wheels": [
                {
                    "filename": wheel.filename,
                    "size": wheel.size,
                    "sha256": wheel.sha256,
                    "pin": wheel.pin,
                }
                for wheel in self.wheels
            ],
        }
        text_of = orjson.dumps(body, option=orjson.OPT_INDENT_2)
        write_atomically(folder / f"{self.name}.json", text_of)

    @classmethod
    def read_all(cls, data: Path) -> list[Closure]:
        """Every closure that a pull left; damaged ones are left out."""
        found = []
        for file in sorted((data / "openllm").glob("*.json")):
            try:
                found.append(cls._parse(orjson.loads(file.read_bytes())))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return found

    @classmethod
    def _parse(cls, told: Mapping[str, Any]) -> Closure:
        specs = [
            RepoSpec(
                Repo.parse(one["repo"]),
                one["revision"],
                tuple(one["include"]),
                tuple(one["exclude"]),
            )
            for one in told["specs"]
        ]
        return cls(
            told["tag"],
            told["branch"],
            tuple(told["aliases"]),
            Platform(**told["platform"]),
            tuple(specs),
            tuple(WantedWheel(**wheel) for wheel in told["wheels"]),
        )

    def answers_to(self, text: str) -> bool:
        """Whether it is that of `NAME[:VERSION or alias]`."""
        name, _, version = text.partition(":")
        mine, _, exact = self.tag.partition(":")
        return name == mine and (not version or version in (exact, *self.aliases))


def _parse(path: str, body: bytes) -> dict[str, Any]:
    try:
        told = yaml.load(body, yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is no YAML that can be read. Tell who made it.") from exc
    if not isinstance(told, dict):
        raise ConfigError(f"{path} describes no bento. Tell who made it.")
    return told


def _spec(tag: str, metadata: Any) -> RepoSpec:
    try:
        include, exclude = (tuple(metadata.get(key) or ()) for key in ("include", "exclude"))
        repo = Repo(RepoType.MODEL, metadata["model_id"])
        return RepoSpec(repo, metadata.get("revision") or "main", include, exclude)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"The bento {tag} names a model in a way that is not known.") from exc


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
