"""One entry of a BentoML model store, parsed from its model.yaml.

models/<name>/latest                 the version of a tag that has only a name
models/<name>/<version>/model.yaml   BentoML's metadata; the model files are in the same folder
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
"""The key in the metadata of an entry that holds its original repository."""

# OpenLLM 0.4 puts the backend before the name (`openllm_core.utils.normalise_model_name`).
_BACKEND = re.compile(r"(?:pt|tf|flax|vllm|ggml|gptq|awq|ctranslate|triton|transformers)-(.+)")
_MAX_YAML = 64 * 1024 * 1024
_MAX_NODES = 4_000_000
_MAX_LATEST = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a store. `commit_hash` is empty if it is unknown."""

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
    """The files that hubmirror wrote into the entry, if model.yaml lists them."""

    def changes(self) -> dict[str, str]:
        """The files of the entry that are missing or have changed since hubmirror wrote them, each
        with the reason."""
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
        """Whether the entry belongs to the repository, and to the revision if it is given."""
        names = (self.commit_hash, self.revision, self.folder.name)
        return self.repo.key == repo.key and (not revision or revision in names)


def entries(home: Path) -> list[Entry]:
    """All valid entries of a store, by tag. Raises OSError."""
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
    """The entry in a folder; None if its name is not a valid repo id. `load_yaml` reads model.yaml.
    `latest_version` is the version in the file `latest`."""
    name, version = folder.parent.name, folder.name
    model = load_yaml(folder / "model.yaml")
    metadata = _table(model, "metadata")
    origin = _table(metadata, ORIGIN)
    repo, derived = _origin(origin), False
    if repo is None:
        repo_id = repo_id_of(name, str(_table(model, "labels").get("backend", "")))
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
        created_at=_moment(model.get("creation_time")),
        is_latest=latest_version == version,
        derived=derived,
        labels=_table(model, "labels"),
        whole=origin.get("whole") is True,
        files=_files(origin.get("files")),
    )


def _origin(origin: Mapping[str, Any]) -> Repo | None:
    try:
        return Repo(RepoType(origin.get("repo_type", "model")), origin["repo_id"])
    except (KeyError, TypeError, ValueError):
        return None


def _table(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = fields.get(key)
    return value if isinstance(value, dict) else {}


def _files(listed: Any) -> Mapping[str, RepoFile] | None:
    try:
        return parse_files(listed) if listed else None
    except (ArithmeticError, AttributeError, KeyError, RequestError, TypeError, ValueError):
        return None


def repo_id_of(name: str, backend: str = "") -> str:
    """The most likely repo id from which OpenLLM made the name of a tag."""
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
    """The content of a model.yaml. It is cached until the mtime or size changes, because one
    command can list a store several times."""
    return read_yaml(file)


def read_yaml(file: Path) -> dict[str, Any]:
    """The content of a model.yaml; empty if the file is damaged or too long."""
    try:
        body = read_regular(file, _MAX_YAML)
        model = load(body, max_bytes=_MAX_YAML, max_nodes=_MAX_NODES, aliases=False)
    except (OSError, BadYamlError):
        return {}
    return model if isinstance(model, dict) else {}


def latest(folder: Path) -> str:
    """The version in the file `latest`; empty if there is none."""
    try:
        return read_regular(folder / "latest", _MAX_LATEST).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _moment(value: Any) -> datetime:
    """The time in UTC; 1970 if the value is not a time that clients can read."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return moment((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return moment(0)
