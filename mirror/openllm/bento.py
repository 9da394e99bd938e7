"""Reads a bento of an OpenLLM 0.6 model repository: its hub repositories and its requirements."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mirror.config.specs import RepoSpec
from mirror.core.errors import ConfigError
from mirror.core.repo import Repo, RepoType
from mirror.openllm.model_repository import parse
from mirror.openllm.requirements import lines_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mirror.openllm.model_repository import ModelRepository

_BENTOS = "bentoml/bentos/"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,127}", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./+-]{0,249}", re.ASCII)
_DAYS_AFTER_CREATION = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Bento:
    """A bento of a model repository.

    `branch` is the branch that it was read from, `metadata` the parsed bento.yaml, and
    `requirements` the lines of its requirements file.
    """

    name: str
    version: str
    branch: str
    metadata: Mapping[str, Any]
    requirements: tuple[str, ...]

    @property
    def tag(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def digest(self) -> str:
        """A sha256 that changes when the content of the bento changes under the same tag."""
        return hashlib.sha256(repr((self.metadata, self.requirements)).encode()).hexdigest()

    @property
    def aliases(self) -> list[str]:
        """Alternative names of the version, as `openllm.repo._complete_alias` reads them."""
        labels = self.metadata.get("labels")
        text = (labels.get("aliases") if isinstance(labels, dict) else "") or ""
        aliases = [alias.strip() for alias in str(text).split(",")]
        return [alias for alias in aliases if _NAME.fullmatch(alias)]

    @property
    def python(self) -> str:
        """The Python version of its virtual environment, as `openllm.venv` reads it.

        Raises ConfigError if bento.yaml does not have it.
        """
        image = self.metadata.get("image")
        version = image.get("python_version") if isinstance(image, dict) else None
        if not version:
            raise ConfigError(
                f"The bento {self.tag} has no image.python_version in its bento.yaml. Report it to "
                "the author of the bento."
            )
        return str(version)

    @property
    def published_before(self) -> datetime | None:
        """A week after its creation; None if bento.yaml has no valid creation_time.

        Its requirements resolve with packages published before. Later packages can break them.
        """
        try:
            created = datetime.fromisoformat(str(self.metadata.get("creation_time")))
        except ValueError:
            return None
        return (created if created.tzinfo else created.replace(tzinfo=UTC)) + _DAYS_AFTER_CREATION

    def specs(self) -> list[RepoSpec]:
        """The hub repositories of its models, each with its revision and its file patterns.

        Raises ConfigError for a model of a registry other than Hugging Face.
        """
        services = [item for item in _list(self.metadata.get("services")) if isinstance(item, dict)]
        models = [*_list(self.metadata.get("models"))]
        models += [model for service in services for model in _list(service.get("models"))]
        specs: dict[RepoSpec, None] = {}
        for model in models:
            if not isinstance(model, dict) or model.get("registry") != "huggingface":
                registry = model.get("registry") if isinstance(model, dict) else model
                raise ConfigError(
                    f"The bento {self.tag} uses a model from the registry {registry!r}. "
                    "hubmirror downloads models from Hugging Face only. Copy this model yourself."
                )
            specs[_spec(self.tag, model.get("metadata"))] = None
        return list(specs)


def find_bento(repository: ModelRepository, branches: Sequence[str], text: str) -> Bento:
    """The bento that `text` (`NAME[:VERSION]` or `NAME[:ALIAS]`) means to `openllm serve`.

    The first of the `branches` that has a matching bento decides, because OpenLLM searches only
    its first repository. Raises ConfigError, which lists the available bentos, if none matches or
    if several match a name without a version.
    """
    name, _, version = text.partition(":")
    for branch in branches:
        bentos = _bentos_named(repository, branch, name)
        matches = [
            bento for bento in bentos if not version or version in (bento.version, *bento.aliases)
        ]
        if len(matches) > 1 and not version:
            versions = ", ".join(sorted(bento.version for bento in matches))
            raise ConfigError(f"{text} matches several bentos: {versions}. Add a version.")
        if matches:
            return replace(matches[-1], requirements=_requirements(repository, matches[-1]))
    raise ConfigError(f"No bento matches {text}. {_available(repository, branches, name)}.")


def tags(repository: ModelRepository, branch: str) -> set[str]:
    """The tags of all bentos of a branch."""
    return {f"{name}:{version}" for name, version in _bento_files(repository, branch)}


def _bentos_named(repository: ModelRepository, branch: str, name: str) -> list[Bento]:
    files = _bento_files(repository, branch).items()
    return [
        Bento(name, version, branch, _parse(path, body), ())
        for (found_name, version), (path, body) in files
        if found_name == name
    ]


def _bento_files(
    repository: ModelRepository, branch: str
) -> dict[tuple[str, str], tuple[str, bytes]]:
    """The path and the content of each bento.yaml, by name and version of the bento."""
    found = {}
    for path, body in sorted(repository.files(branch, "/bento.yaml").items()):
        if path.startswith(_BENTOS) and path.count("/") == 4:
            name, version = path.removeprefix(_BENTOS).split("/")[:2]
            if is_tag(f"{name}:{version}"):
                found[name, version] = (path, body)
    return found


def _available(repository: ModelRepository, branches: Sequence[str], name: str) -> str:
    """The versions and aliases of a name; the names of all bentos if the name is unknown."""
    bentos = [bento for branch in branches for bento in _bentos_named(repository, branch, name)]
    if bentos:
        versions = {version for bento in bentos for version in (bento.version, *bento.aliases)}
        return f"The versions of {name} are: {', '.join(sorted(versions))}"
    names = {found for branch in branches for found, _ in _bento_files(repository, branch)}
    if not names:
        return f"The repository {repository.name} has no bentos"
    return f"The available bentos are: {', '.join(sorted(names)[:30])}"


def _requirements(repository: ModelRepository, bento: Bento) -> tuple[str, ...]:
    """The lines of the file that OpenLLM installs from. Raises ConfigError if it does not exist."""
    folder = f"{_BENTOS}{bento.name}/{bento.version}/env/python"
    for file in ("requirements.lock.txt", "requirements.txt"):
        if (body := repository.read(bento.branch, f"{folder}/{file}")) is not None:
            return lines_of(bento.tag, body)
    raise ConfigError(
        f"The bento {bento.tag} has no requirements file, so OpenLLM cannot start it. Choose "
        "another bento."
    )


def _parse(path: str, body: bytes) -> dict[str, Any]:
    metadata = parse(path, body)
    if not isinstance(metadata, dict):
        raise ConfigError(f"{path} is not a mapping. Report it to the author of the bento.")
    return metadata


def _spec(tag: str, metadata: Any) -> RepoSpec:
    try:
        include, exclude = (_patterns(metadata.get(key)) for key in ("include", "exclude"))
        revision = metadata.get("revision") or "main"
        if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
            raise TypeError("the revision is not a valid name")
        return RepoSpec(Repo(RepoType.MODEL, metadata["model_id"]), revision, include, exclude)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ConfigError(
            f"The bento {tag} has a model whose model_id, revision, include or exclude is not "
            "valid. Report it to the author of the bento."
        ) from exc


def _patterns(value: Any) -> tuple[str, ...]:
    """File patterns; BentoML accepts a string or a list of strings."""
    patterns = [value] if isinstance(value, str) else value or []
    if not isinstance(patterns, list) or not all(isinstance(item, str) for item in patterns):
        raise TypeError("include and exclude are not lists of strings")
    return tuple(patterns)


def is_tag(text: str) -> bool:
    """Whether `text` is `NAME:VERSION`, and both are safe as parts of a file name."""
    parts = text.split(":")
    return len(parts) == 2 and all(map(_NAME.fullmatch, parts))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
