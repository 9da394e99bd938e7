"""The read interface of every source, and the values that its methods return."""

from __future__ import annotations

import contextlib
import os
import stat
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mirror.core.blob import Blob, LocalBlob
from mirror.core.errors import BlobUnreadableError, EntryNotFoundError, UnavailableError
from mirror.core.files import open_regular
from mirror.core.tree import RepoFile, git_id
from mirror.core.units import several

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from mirror.core.commit import Commit
    from mirror.core.repo import Repo


_UNKNOWN = (
    "This mirror has only a part of the revision, and does not know whether upstream has the file."
)


client_token: ContextVar[str] = ContextVar("client_token", default="")
"""The token of the client whose request is answered now; empty if it sent none. Only a source that
asks upstream for each client reads it."""


class StoredFile(Protocol):
    """A file of a snapshot, as its source holds it."""

    @property
    def file(self) -> RepoFile:
        """Its path, size and digests, as clients see them."""

    @property
    def problem(self) -> str:
        """The reason why the file cannot be served; empty if it can be served. A file with a
        problem is listed with a digest that no content has: a client that downloads the file gets
        an error, and a client that does not need the file works."""

    @property
    def local_path(self) -> str | None:
        """The path of the bytes on a disk of this host; None if the bytes are on another host."""

    def open(self) -> Blob:
        """Open the file. Raises BlobUnreadableError if the file does not exist any more, is not a
        regular file, has the wrong size, or has changed since its digest was computed."""

    def check(self) -> None:
        """Raises the same BlobUnreadableError as `open`, but does not open the file."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on a disk of this host. `mtime_ns` is the mtime that the file had when its digest was
    computed; None if the name of the file is its digest."""

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


def refuse_corrupt(
    files: Mapping[str, LocalFile], corrupt: Mapping[str, str]
) -> Mapping[str, LocalFile]:
    """The files, with a problem for those whose place on the disk is in `corrupt`."""
    refused = {
        path: replace(stored, problem=corrupt[stored.local_path])
        for path, stored in files.items()
        if stored.local_path in corrupt and not stored.problem
    }
    return {**files, **refused} if refused else files


def local_path(stored: StoredFile) -> Path:
    """The path of a file on this host, for commands that link or rename the file. Raises
    BlobUnreadableError if the bytes are on another host."""
    if stored.local_path is None:
        raise BlobUnreadableError(stored.file.path, "its bytes are not on a disk of this host")
    return Path(stored.local_path)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One commit of a repository, with the files that its source holds.

    `repo` has the upper and lower case letters that upstream uses. `files` holds the files that
    are served. `absent` maps the other paths of the commit to the reason why they are not served.
    `whole` is true if `files` and `absent` together are the whole tree of the commit. If it is
    false, `no_exist` may be set: the folder of huggingface_hub's markers for files that upstream
    does not have. `pulled_at` is set if a pull recorded it. `info` is the response of upstream's
    API about the repository, and `organization` that about the publisher of a kernel. `commit` is
    the commit object, if the source has it. `note` is a message for the operator. `stale` is the
    reason why the commit may not be the newest one of its branch; empty if it is, or if no
    upstream is asked.
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
    stale: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    organization: Mapping[str, Any] = field(default_factory=dict)
    commit: Commit | None = None

    @property
    def problems(self) -> dict[str, str]:
        """The files that cannot be served, each with the reason."""
        return {path: stored.problem for path, stored in self.files.items() if stored.problem}

    @property
    def problem_text(self) -> str:
        """The problems in one line; empty if there are none."""
        problems = self.problems
        if not problems:
            return ""
        path, reason = min(problems.items())
        others = f" (and {several(len(problems) - 1, 'other file')})" if len(problems) > 1 else ""
        return f"{path} cannot be served: {reason}{others}"

    @property
    def status(self) -> str:
        """`damaged` if a file cannot be served, else `complete` if a pull recorded the revision,
        else `partial` if files of the commit are missing, else `foreign`."""
        if self.problems:
            return "damaged"
        if self.pulled_at is not None:
            return "complete"
        return "partial" if self.absent or not self.whole else "foreign"

    def find(self, path: str) -> StoredFile:
        """The file at a path. Raises EntryNotFoundError; its `known` is true if the commit
        certainly has no such file."""
        try:
            return self.files[path]
        except KeyError:
            raise self.not_found(path) from None

    def not_found(self, path: str) -> EntryNotFoundError:
        """The error for a path that is not in `files`."""
        reason = self.absent.get(path, "")
        known = self.whole or (
            self.no_exist is not None and os.path.exists(os.path.join(self.no_exist, path))
        )
        if not reason and not known:
            reason = _UNKNOWN
        return EntryNotFoundError(self.repo, self.commit_hash, path, reason)


class Layout(StrEnum):
    """How a source stores its files. Commands that change a source check the layout, not the
    class of the source."""

    MANAGED_CACHE = "managed"
    HF_CACHE = "hf-cache"
    BENTO_STORE = "bento"
    OTHER = "other"
    """No command of hubmirror changes anything in such a source."""


class Source(Protocol):
    """A store that repositories are read from. All methods block, and can be called from threads.

    A method that takes a repo or a revision can raise RepositoryNotFoundError,
    RevisionNotFoundError and UnavailableError. Repo ids are compared case-insensitively.
    """

    @property
    def label(self) -> str:
        """The name of the source for the operator: its kind and its declared path. A label is
        never part of a response."""

    @property
    def layout(self) -> Layout:
        """How the source stores its files."""

    @property
    def root(self) -> Path | None:
        """The folder that has this layout; None if the source has no folder on this host."""

    def repos(self) -> Iterable[Repo]:
        """Every repository in the source, complete or incomplete."""

    def refs(self, repo: Repo) -> Mapping[str, str]:
        """Full ref names, mapped to the commit hashes that can be read."""

    def commits(self, repo: Repo) -> Iterable[str]:
        """Every commit hash in the source, readable or not."""

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        """The commit of a branch, tag, `refs/…`, full or abbreviated commit hash, or `HEAD`."""

    def stamp(self, repo: Repo) -> Hashable:
        """A value that changes when the commit of `HEAD`, or a file of it, may have changed."""

    def identities(self) -> Sequence[str]:
        """The ids of the managed caches in this source. A copy of a cache has the same id."""

    def unrecorded(self) -> Sequence[Repo]:
        """Repositories in the folder that are invisible because they have no record of a pull, and
        that no pull is known to bring."""


def unrecorded_text(repos: Sequence[Repo], folder: str = "FOLDER") -> str:
    """The message about the repositories of `Source.unrecorded`, with the next step."""
    return (
        f"{len(repos)} repositories (the first is {repos[0]}) in the managed cache have no record "
        "of a pull, and are not visible: their copy may still be running. To serve them without "
        f"records, declare the folder as an HF cache: --source hf-cache:{folder}"
    )


@contextlib.contextmanager
def disk_errors(name: str) -> Iterator[None]:
    """Raise UnavailableError for a disk error, never a "not found"."""
    try:
        yield
    except OSError as exc:
        error = UnavailableError(f"{name} cannot be read: {exc.strerror}.")
        error.path = os.fsdecode(exc.filename) if isinstance(exc.filename, str | bytes) else ""
        raise error from exc


def _cause(exc: OSError) -> str:
    return exc.strerror or "it cannot be read"
