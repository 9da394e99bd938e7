"""The read interface that every kind of folder serves, and the values that it answers with."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mirror.core.blob import Blob, LocalBlob
from mirror.core.errors import BlobUnreadableError, EntryNotFoundError
from mirror.core.files import open_regular
from mirror.core.tree import RepoFile, git_id

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence
    from datetime import datetime

    from mirror.core.repo import Repo


_UNKNOWN = (
    "This mirror holds a part of the revision, and cannot tell whether upstream has the file."
)


class StoredFile(Protocol):
    """A file of a snapshot, as its source holds it."""

    @property
    def file(self) -> RepoFile:
        """Its path, size and digests, as clients see them."""

    @property
    def problem(self) -> str:
        """Why a file that is there cannot be served; empty if it can. Such a file is listed under
        an id that no content has, so that a client that needs it fails, and any other does not."""

    @property
    def local_path(self) -> str | None:
        """Where its bytes are on a disk of this host; None if they are elsewhere."""

    def open(self) -> Blob:
        """Its bytes. Raises BlobUnreadableError if the file vanished, is not a regular file, has
        the wrong size, or is not what its digest was computed of."""

    def check(self) -> None:
        """Raises BlobUnreadableError as `open` would, without opening."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on a disk of this host. `mtime_ns` is of the bytes that were read for its digest; None
    if the name of the file is its digest."""

    file: RepoFile
    local_path: str
    mtime_ns: int | None = None
    problem: str = ""

    @classmethod
    def unreadable(cls, path: str, local_path: str, size: int, problem: str) -> LocalFile:
        """A file whose bytes cannot be read, so that its digest is unknown."""
        name = git_id("unreadable", path.encode())
        return cls(RepoFile(path, size, name), local_path, problem=problem)

    def open(self) -> Blob:
        self._check_readable()
        try:
            descriptor = open_regular(self.local_path, follow=False)
        except OSError as exc:
            raise BlobUnreadableError(self.file.path, _cause(exc)) from exc
        try:
            self._check_stat(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return LocalBlob(descriptor, self.file.size)

    def check(self) -> None:
        self._check_readable()
        try:
            found = os.stat(self.local_path, follow_symlinks=False)
        except OSError as exc:
            raise BlobUnreadableError(self.file.path, _cause(exc)) from exc
        self._check_stat(found)

    def _check_readable(self) -> None:
        if self.problem:
            raise BlobUnreadableError(self.file.path, self.problem)

    def _check_stat(self, found: os.stat_result) -> None:
        path, size = self.file.path, self.file.size
        if not stat.S_ISREG(found.st_mode):
            raise BlobUnreadableError(path, "it is not a regular file")
        if self.mtime_ns not in (None, found.st_mtime_ns):
            raise BlobUnreadableError(path, "it was changed a moment ago")
        if found.st_size != size:
            raise BlobUnreadableError(
                path, f"it has {found.st_size} bytes where {size} are expected"
            )


def local_path(stored: StoredFile) -> Path:
    """Where the bytes of a file are on this host, for commands that link or rename. Raises
    BlobUnreadableError if they are elsewhere."""
    if stored.local_path is None:
        raise BlobUnreadableError(stored.file.path, "its bytes are not on a disk of this host")
    return Path(stored.local_path)


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


class Layout(StrEnum):
    """How a source keeps its files. Commands that change a source ask for this, not for a class."""

    MANAGED_CACHE = "managed"
    HF_CACHE = "hf-cache"
    BENTO_STORE = "bento"
    OTHER = "other"
    """Nothing in it is changed by a command of hubmirror."""


class Source(Protocol):
    """A place that repositories are read from. All methods block, and may be called from threads.

    Each may raise RepositoryNotFoundError, RevisionNotFoundError and UnavailableError where it
    takes a repo or a revision. Repo ids are matched without regard to case.
    """

    @property
    def label(self) -> str:
        """How the operator sees this source: its kind and what was declared, never in an answer."""

    @property
    def layout(self) -> Layout:
        """How it keeps its files."""

    @property
    def root(self) -> Path | None:
        """The folder of this layout; None if the source has none on this host."""

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


def _cause(exc: OSError) -> str:
    return exc.strerror or "it cannot be read"
