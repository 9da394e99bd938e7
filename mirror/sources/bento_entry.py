"""One entry of a BentoML model store, as its model.yaml tells it.

models/<name>/latest                 the version that the bare name means
models/<name>/<version>/model.yaml   what BentoML knows of it, and beside it the files
"""

from __future__ import annotations

import functools
import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mirror.core.errors import RequestError
from mirror.core.files import read_regular
from mirror.core.record import parse_files
from mirror.core.repo import COMMIT_HASH, Repo, RepoType, is_repo_id
from mirror.core.safe_yaml import BadYamlError, load
from mirror.sources.scan import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mirror.core.tree import RepoFile

ORIGIN = "hubmirror"
"""The key of an entry's metadata under which its true repository is kept."""

# OpenLLM 0.4 puts the backend before the name (`openllm_core.utils.normalise_model_name`).
_BACKEND = re.compile(r"(?:pt|tf|flax|vllm|ggml|gptq|awq|ctranslate|triton|transformers)-(.+)")
_MAX_YAML = 64 * 1024 * 1024
_MAX_NODES = 4_000_000
_MAX_LATEST = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a store; `commit_hash` is empty where nothing tells it."""

    tag: str
    folder: Path
    repo: Repo
    commit_hash: str
    revision: str
    created_at: datetime
    is_latest: bool
    derived: bool
    labels: Mapping[str, str]
    whole: bool = False
    files: Mapping[str, RepoFile] | None = None
    """What was written into the entry, where it says so itself."""

    def changes(self) -> dict[str, str]:
        """Of the files that were written into it, those that are not as they were, and why."""
        changed = {}
        for path, file in (self.files or {}).items():
            try:
                found = (self.folder / path).lstat()
            except (FileNotFoundError, NotADirectoryError):
                changed[path] = "is missing"
                continue
            if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
                changed[path] = "was changed"
        return changed

    def holds(self, repo: Repo, revision: str = "") -> bool:
        """Whether it is of the repository, and of the revision where one is given."""
        names = (self.commit_hash, self.revision, self.folder.name)
        return self.repo.key == repo.key and (not revision or revision in names)


def entries(home: Path) -> list[Entry]:
    """All entries of a store that can be understood, by tag. Raises OSError."""
    models = home / "models"
    names = sorted(os.listdir(models)) if models.exists() else []
    return [
        entry
        for name in names
        for version in _versions(models / name)
        if (entry := parse_entry(models / name / version, _load, latest(models / name)))
    ]


def _versions(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if (folder / name / "model.yaml").is_file())


def parse_entry(
    folder: Path, load_yaml: Callable[[Path], dict[str, Any]], latest_version: str
) -> Entry | None:
    """The entry in a folder, whose model.yaml `load_yaml` reads; None for a name that no repository
    has. `latest_version` is what the bare name means."""
    name, version = folder.parent.name, folder.name
    told = load_yaml(folder / "model.yaml")
    metadata = _table(told, "metadata")
    origin = _table(metadata, ORIGIN)
    repo, derived = _origin(origin), False
    if repo is None:
        repo_id = repo_id_of(name, str(_table(told, "labels").get("backend", "")))
        repo, derived = Repo(RepoType.MODEL, repo_id) if is_repo_id(repo_id) else None, True
    if repo is None:
        return None
    commit = str(origin.get("commit_hash") or metadata.get("_revision") or version)
    return Entry(
        tag=f"{name}:{version}",
        folder=folder,
        repo=repo,
        commit_hash=commit if COMMIT_HASH.fullmatch(commit) else "",
        revision=str(origin.get("revision") or ""),
        created_at=_moment(told.get("creation_time")),
        is_latest=latest_version == version,
        derived=derived,
        labels=_table(told, "labels"),
        whole=origin.get("whole") is True,
        files=_files(origin.get("files")),
    )


def _origin(told: Mapping[str, Any]) -> Repo | None:
    try:
        return Repo(RepoType(told.get("repo_type", "model")), told["repo_id"])
    except (KeyError, TypeError, ValueError):
        return None


def _table(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = told.get(key)
    return value if isinstance(value, dict) else {}


def _files(listed: Any) -> Mapping[str, RepoFile] | None:
    try:
        return parse_files(listed) if listed else None
    except (ArithmeticError, AttributeError, KeyError, RequestError, TypeError, ValueError):
        return None


def repo_id_of(name: str, backend: str = "") -> str:
    """The repo id that OpenLLM made a tag's name from, as far as it can be told."""
    if backend and name.startswith(f"{backend}-"):
        name = name.removeprefix(f"{backend}-")
    elif match := _BACKEND.fullmatch(name):
        name = match[1]
    return name.replace("--", "/", 1)


def _load(file: Path) -> dict[str, Any]:
    try:
        found = file.stat()
        return _parsed(file, found.st_mtime_ns, found.st_size)
    except OSError:
        return {}


@functools.lru_cache(maxsize=1024)
def _parsed(file: Path, _mtime_ns: int, _size: int) -> dict[str, Any]:
    """A model.yaml, read once while its time and size stay: commands list a store several times."""
    return read_yaml(file)


def read_yaml(file: Path) -> dict[str, Any]:
    """What a model.yaml says; empty where it is damaged or too long."""
    try:
        body = read_regular(file, _MAX_YAML)
        told = load(body, max_bytes=_MAX_YAML, max_nodes=_MAX_NODES, aliases=False)
    except (OSError, BadYamlError):
        return {}
    return told if isinstance(told, dict) else {}


def latest(folder: Path) -> str:
    """The version that a bare name means; empty where nothing says it."""
    try:
        return read_regular(folder / "latest", _MAX_LATEST).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _moment(value: Any) -> datetime:
    """In UTC; 1970 for what is not a time that clients can read."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return moment((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return moment(0)
