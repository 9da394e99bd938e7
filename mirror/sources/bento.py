"""A BentoML model store, in place: each entry is a revision of the repository that it came from.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.core.errors import (
    RepositoryNotFoundError,
    RequestError,
    RevisionIncompleteError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.core.files import read_regular
from mirror.core.record import parse_files
from mirror.core.repo import COMMIT_HASH, Repo, RepoType, find_commit, is_repo_id
from mirror.core.safe_yaml import BadYamlError, load
from mirror.core.source import LocalFile, Snapshot
from mirror.sources.plain import PlainFiles
from mirror.sources.scan import moment
from mirror.sources.snapshot_cache import TTL_S, SnapshotCache

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from mirror.core.tree import RepoFile
    from mirror.derived.digests import Digests

ORIGIN = "hubmirror"
"""The key of an entry's metadata under which its true repository is kept."""

_DERIVED = "the repository is derived from the tag {}, which keeps neither case nor underscores"
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
        return _is_same(self.repo, repo) and (not revision or revision in names)


class BentoStore:
    """The entries below `models/` of a BENTOML_HOME."""

    def __init__(
        self, home: Path, digests: Digests, *, label: str = "bento", ttl_s: float = TTL_S
    ) -> None:
        self.label = label
        self.home = Path(os.path.realpath(home))
        self._digests = digests
        self._recent = SnapshotCache(ttl_s)

    def repos(self) -> list[Repo]:
        found: dict[tuple[str, str], Repo] = {}
        for entry in sorted(self.entries(), key=lambda one: one.derived):
            found.setdefault((entry.repo.repo_type, entry.repo.repo_id.lower()), entry.repo)
        return list(found.values())

    def refs(self, repo: Repo) -> Mapping[str, str]:
        """Each revision that entries name, and `main` for the newest that names none."""
        refs: dict[str, str] = {}
        for entry in sorted(self._of(repo), key=lambda one: (one.is_latest, one.created_at)):
            name = entry.revision if not COMMIT_HASH.fullmatch(entry.revision) else ""
            full = name if name.startswith("refs/") else f"refs/heads/{name or 'main'}"
            refs[full] = self._commit(entry)
        return refs

    def commits(self, repo: Repo) -> list[str]:
        ordered = sorted(self._of(repo), key=lambda entry: entry.created_at)
        return list(dict.fromkeys(self._commit(entry) for entry in ordered))

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        entries = self._of(repo)
        commit = find_commit(revision, self.refs(repo), self.commits(repo))
        damage = None
        for entry in entries:
            if commit is not None and self._commit(entry) == commit:
                try:
                    return self._read(entry)
                except RevisionIncompleteError as exc:
                    damage = exc  # another generation's entry of the commit may be whole
        raise damage or RevisionNotFoundError(repo, revision)

    def stamp(self, repo: Repo) -> Hashable:
        return tuple((entry.tag, entry.folder.stat().st_mtime_ns) for entry in self._of(repo))

    def identities(self) -> list[str]:
        return []

    def unrecorded(self) -> list[Repo]:
        return []

    def entries(self) -> list[Entry]:
        """All entries that can be understood, by tag."""
        try:
            return entries(self.home)
        except OSError as exc:
            raise UnavailableError(f"The Bento store cannot be read: {exc.strerror}.") from exc

    def _of(self, repo: Repo) -> list[Entry]:
        found = [entry for entry in self.entries() if entry.holds(repo)]
        if not found:
            raise RepositoryNotFoundError(repo)
        return found

    def _commit(self, entry: Entry) -> str:
        return entry.commit_hash or self._read(entry).commit_hash

    def _read(self, entry: Entry) -> Snapshot:
        return self._recent.get(entry.folder, lambda: self._read_now(entry))

    def _read_now(self, entry: Entry) -> Snapshot:
        try:
            found = (
                PlainFiles.read(entry.folder, str(entry.repo), self._digests, ("model.yaml",))
                if entry.files is None
                else _as_written(entry, entry.files)
            )
        except OSError as exc:
            raise UnavailableError(f"{entry.repo} cannot be read: {exc.strerror}.") from exc
        return Snapshot(
            repo=entry.repo,
            commit_hash=entry.commit_hash or found.tree_id,
            files=found.files,
            last_modified=entry.created_at,
            absent=found.absent,
            # An entry holds what a start needed, which may be a part of the commit.
            whole=entry.whole or not entry.commit_hash,
            note=_DERIVED.format(entry.tag) if entry.derived else "",
        )


def entries(home: Path) -> list[Entry]:
    """All entries of a store that can be understood, by tag. Raises OSError."""
    models = home / "models"
    names = sorted(os.listdir(models)) if models.exists() else []
    found = (_entry(models, name, one) for name in names for one in _versions(models / name))
    return [entry for entry in found if entry is not None]


def _as_written(entry: Entry, files: Mapping[str, RepoFile]) -> PlainFiles:
    """The files that were written into an entry. Raises RevisionIncompleteError where any is not as
    it was."""
    if changed := entry.changes():
        path = next(iter(changed))
        raise RevisionIncompleteError(
            f"{entry.repo} at {entry.commit_hash} cannot be served: {path} {changed[path]} in the "
            f"Bento store's entry {entry.tag}. Ask the mirror's operator to write it anew, by "
            "`hubmirror bento add`.",
            brief=f"{len(changed)} of {len(files)} files changed in the entry {entry.tag}",
            corrupt=True,
            absent=changed,
        )
    stored = {path: LocalFile(file, str(entry.folder / path)) for path, file in files.items()}
    return PlainFiles(stored, {}, entry.created_at)


def _versions(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if (folder / name / "model.yaml").is_file())


def _entry(models: Path, name: str, version: str) -> Entry | None:
    folder = models / name / version
    told = _load(folder / "model.yaml")
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
        is_latest=_latest(models / name) == version,
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
        return _parsed(str(file), found.st_mtime_ns, found.st_size)
    except (OSError, BadYamlError):
        return {}


@functools.lru_cache(maxsize=1024)
def _parsed(file: str, _: int, size: int) -> dict[str, Any]:
    """A model.yaml, read once while its time and size stay."""
    if size > _MAX_YAML:
        raise BadYamlError("it is too long")
    body = read_regular(file, _MAX_YAML)
    told = load(body, max_bytes=_MAX_YAML, max_nodes=_MAX_NODES, aliases=False)
    return told if isinstance(told, dict) else {}


def _latest(folder: Path) -> str:
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


def _is_same(one: Repo, other: Repo) -> bool:
    return (one.repo_type, one.repo_id.lower()) == (other.repo_type, other.repo_id.lower())
