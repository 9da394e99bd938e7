"""What a model of OpenLLM 0.6 needs to start: its bento, the hub repository, and the wheels."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mirror.config import RepoSpec
from mirror.core.errors import ConfigError
from mirror.core.repo import Repo, RepoType
from mirror.openllm.model_repository import parse
from mirror.openllm.requirements import lines_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mirror.openllm.model_repository import ModelRepository

_START = "bentoml/bentos/"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,127}", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./+-]{0,249}", re.ASCII)
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
    def digest(self) -> str:
        """Another one where the bento was changed under its tag."""
        return hashlib.sha256(repr((self.told, self.requirements)).encode()).hexdigest()

    @property
    def aliases(self) -> list[str]:
        """Other names of the version (`openllm.repo._complete_alias`)."""
        labels = self.told.get("labels")
        text = (labels.get("aliases") if isinstance(labels, dict) else "") or ""
        return [one.strip() for one in str(text).split(",") if _NAME.fullmatch(one.strip())]

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


def find(repository: ModelRepository, branches: Sequence[str], text: str) -> Bento:
    """The bento that `NAME[:VERSION or alias]` means, as `openllm serve` reads it: of the first
    branch that has one, as OpenLLM looks into its first repository alone.

    Raises ConfigError, naming what there is.
    """
    name, _, version = text.partition(":")
    for branch in branches:
        named = _named(repository, branch, name)
        chosen = [one for one in named if not version or version in (one.version, *one.aliases)]
        if len(chosen) > 1 and not version:
            several = ", ".join(sorted(one.version for one in chosen))
            raise ConfigError(f"{text} may mean several bentos: {several}. Name a version.")
        if chosen:
            return replace(chosen[-1], requirements=_requirements(repository, chosen[-1]))
    raise ConfigError(f"No bento answers to {text}. {_choice(repository, branches, name)}.")


def tags(repository: ModelRepository, branch: str) -> set[str]:
    """The tags of all bentos of a branch."""
    return {f"{name}:{version}" for name, version in _files(repository, branch)}


def _named(repository: ModelRepository, branch: str, name: str) -> list[Bento]:
    files = _files(repository, branch).items()
    return [
        Bento(name, version, branch, _parse(path, body), ())
        for (other, version), (path, body) in files
        if other == name
    ]


def _files(repository: ModelRepository, branch: str) -> dict[tuple[str, str], tuple[str, bytes]]:
    """The path and the text of each bento.yaml, by name and version."""
    found = {}
    for path, body in sorted(repository.files(branch, "/bento.yaml").items()):
        if path.startswith(_START) and path.count("/") == 4:
            name, version = path.removeprefix(_START).split("/")[:2]
            if is_tag(f"{name}:{version}"):
                found[name, version] = (path, body)
    return found


def _choice(repository: ModelRepository, branches: Sequence[str], name: str) -> str:
    """What may be asked for: versions of the name, else names."""
    named = [bento for branch in branches for bento in _named(repository, branch, name)]
    if named:
        versions = {one for bento in named for one in (bento.version, *bento.aliases)}
        return f"{name} has: {', '.join(sorted(versions))}"
    names = {other for branch in branches for other, _ in _files(repository, branch)}
    return f"There are: {', '.join(sorted(names)[:30])}"


def _requirements(repository: ModelRepository, bento: Bento) -> tuple[str, ...]:
    """The lines of the file that OpenLLM installs from. Raises ConfigError where there is none."""
    folder = f"{_START}{bento.name}/{bento.version}/env/python"
    for file in ("requirements.lock.txt", "requirements.txt"):
        if (body := repository.read(bento.branch, f"{folder}/{file}")) is not None:
            return lines_of(bento.tag, body)
    raise ConfigError(f"The bento {bento.tag} has no requirements, so OpenLLM cannot start it.")


def _parse(path: str, body: bytes) -> dict[str, Any]:
    told = parse(path, body)
    if not isinstance(told, dict):
        raise ConfigError(f"{path} describes no bento. Tell who made it.")
    return told


def _spec(tag: str, metadata: Any) -> RepoSpec:
    try:
        include, exclude = (_patterns(metadata.get(key)) for key in ("include", "exclude"))
        revision = metadata.get("revision") or "main"
        if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
            raise TypeError("a revision is a name")
        return RepoSpec(Repo(RepoType.MODEL, metadata["model_id"]), revision, include, exclude)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"The bento {tag} names a model in a way that is not known.") from exc


def _patterns(value: Any) -> tuple[str, ...]:
    """Patterns for files; BentoML takes one, or a list."""
    found = [value] if isinstance(value, str) else value or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise TypeError("patterns are a list of names")
    return tuple(found)


def is_tag(text: str) -> bool:
    """Whether it is `NAME:VERSION`, of which each may be a part of a file's name."""
    parts = text.split(":")
    return len(parts) == 2 and all(map(_NAME.fullmatch, parts))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
