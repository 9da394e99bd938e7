"""The read interface that every kind of folder serves, and the values that it answers with."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mirror.core.errors import BlobUnreadableError, EntryNotFoundError
from mirror.core.files import open_regular
from mirror.core.tree import RepoFile, git_id

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from mirror.core.repo import Repo


_UNKNOWN = (
    "This mirror holds a part of the revision, and cannot tell whether upstream has the file."
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a tree, and the path on disk that holds its bytes. `mtime_ns` is of those that were
    read for its digest; None where the file's own name is its digest. `problem` says why a file
    that is there cannot be served: it is listed under an id that no content has, so that a client
    that needs it fails, and any other does not."""

    file: RepoFile
    location: str
    mtime_ns: int | None = None
    problem: str = ""

    @classmethod
    def unreadable(cls, path: str, location: str, size: int, problem: str) -> StoredFile:
        """A file whose bytes cannot be read, so that nobody knows its digest."""
        name = git_id("unreadable", path.encode())
        return cls(RepoFile(path, size, name), location, problem=problem)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One commit of a repository, as far as a folder holds it.

    `repo` is in its true case. `files` is what is offered. `absent` says of other paths of the
    commit why they are not offered. `whole` is true where `files` and `absent` together are the
    whole tree of the commit; else `no_exist`, a folder of huggingface_hub's markers, may know
    more. `pulled_at` is known where a pull recorded it. `info` is what upstream's API said of the
    repository; `note` what its operator should know of it.
    """

    repo: Repo
    commit_hash: str
    files: Mapping[str, StoredFile]
    last_modified: datetime
    absent: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True
    no_exist: Path | None = None
    pulled_at: datetime | None = None
    note: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def find(self, path: str) -> StoredFile:
        """Raises EntryNotFoundError; `known` where the commit is known to have no such file."""
        try:
            return self.files[path]
        except KeyError:
            raise self.not_found(path) from None

    def not_found(self, path: str) -> EntryNotFoundError:
        """What to say of a path that is not among `files`."""
        reason = self.absent.get(path, "")
        known = self.whole or (
            self.no_exist is not None and os.path.exists(os.path.join(self.no_exist, path))
        )
        if not reason and not known:
            reason = _UNKNOWN
        return EntryNotFoundError(self.repo, self.commit_hash, path, reason)


class Source(Protocol):
    """A place that repositories are read from. All methods block, and may be called from threads.

    Each may raise RepositoryNotFoundError, RevisionNotFoundError and UnavailableError where it
    takes a repo or a revision. Repo ids are matched without regard to case.
    """

    label: str
    """How the operator sees this source: its kind and what was declared, never in an answer."""

    def repos(self) -> Iterable[Repo]:
        """Every repository that is here, complete or not."""

    def refs(self, repo: Repo) -> Mapping[str, str]:
        """Full ref names to the commit hashes that can be read."""

    def commits(self, repo: Repo) -> Iterable[str]:
        """Every commit hash that is here, readable or not."""

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        """The commit that a branch, tag, `refs/…`, (abbreviated) commit hash or `HEAD` means."""

    def stamp(self, repo: Repo) -> Hashable:
        """A value that changes when what `HEAD` means, or its files, may have changed."""

    def identities(self) -> Sequence[str]:
        """The names of managed caches, which they have wherever they are served."""

    def unrecorded(self) -> Sequence[Repo]:
        """Repositories that lie in the folder and can never be seen as it is declared."""


def unrecorded_text(repos: Sequence[Repo], folder: str = "FOLDER") -> str:
    """What to tell of `Source.unrecorded`, and what to do about it."""
    return (
        f"{len(repos)} repositories (the first is {repos[0]}) lie in the managed cache without a "
        "record of a pull, and are not visible: they may be arriving still. To serve them as they "
        f"are, declare the folder: --source hf-cache:{folder}"
    )


def open_blob(stored: StoredFile) -> int:
    """A descriptor on the file's bytes, which the caller closes.

    Raises BlobUnreadableError where it vanished, is not a regular file, has the wrong size, or is
    not what its digest was computed of.
    """
    _check_readable(stored)
    try:
        descriptor = open_regular(stored.location, follow=False)
    except OSError as exc:
        raise BlobUnreadableError(stored.file.path, _cause(exc)) from exc
    try:
        _check(stored, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_blob(stored: StoredFile) -> None:
    """Raises BlobUnreadableError as `open_blob` would, without opening."""
    _check_readable(stored)
    try:
        found = os.stat(stored.location, follow_symlinks=False)
    except OSError as exc:
        raise BlobUnreadableError(stored.file.path, _cause(exc)) from exc
    _check(stored, found)


def _check_readable(stored: StoredFile) -> None:
    if stored.problem:
        raise BlobUnreadableError(stored.file.path, stored.problem)


def _check(stored: StoredFile, found: os.stat_result) -> None:
    file = stored.file
    if not stat.S_ISREG(found.st_mode):
        raise BlobUnreadableError(file.path, "it is not a regular file")
    if stored.mtime_ns not in (None, found.st_mtime_ns):
        raise BlobUnreadableError(file.path, "it was changed a moment ago")
    if found.st_size != file.size:
        raise BlobUnreadableError(
            file.path, f"it has {found.st_size} bytes where {file.size} are expected"
        )


def _cause(exc: OSError) -> str:
    return exc.strerror or "it cannot be read"
