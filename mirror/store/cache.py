"""Adds blobs to a managed cache. A file gets its digest as its name only after its bytes match the
digest and are synced to disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mirror.core.errors import ConfigError, CorruptBlobError
from mirror.core.files import set_mode
from mirror.core.repo import Repo
from mirror.derived.state import sync_folder, try_lock
from mirror.sources.pull_status import read_pull
from mirror.sources.repo_dir import WORK_DIR, RepoDir, identity
from mirror.store.verify_digest import digest, no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.core.tree import RepoFile

BUNDLE_LOCK = "bundle"
"""The name of the lock that `hubmirror bundle apply` holds."""

_READ = 4 * 1024 * 1024
_NOT_SUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Cache:
    """A managed cache, for writing.

    Unfinished work is kept in `.hubmirror`, on the same file system. Readers ignore this folder,
    and a copy of the cache does not need it.
    """

    root: Path
    _index: dict[str, Path] = field(default_factory=dict, compare=False)
    _listed: set[str] = field(default_factory=set, compare=False)
    _names: dict[str, str] = field(default_factory=dict, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)
    _token: str = field(default_factory=lambda: uuid.uuid4().hex[:8], compare=False)

    @classmethod
    def of(cls, root: Path) -> Cache:
        """The cache at `root`. Creates the folder if it is absent."""
        root.mkdir(parents=True, exist_ok=True)
        return cls(Path(os.path.realpath(root)))

    @property
    def work_dir(self) -> Path:
        return self.root / WORK_DIR

    def staging(self, repo: Repo) -> Path:
        """The folder for unfinished files of a repository. Without locks, two pulls can run at the
        same time, and each has a folder of its own."""
        folder = self.work_dir / "staging" / repo.folder_name
        return folder if self.has_locks else folder / self._token

    @cached_property
    def has_locks(self) -> bool:
        """Whether the file system has locks. Some mounts of file servers have none."""
        with self._open_lock("probe") as file:
            try:
                try_lock(file)
            except OSError:
                return False
        return True

    def check_symlinks(self) -> None:
        """Raise ConfigError if the file system has no symlinks, which every revision needs."""
        link = self.work_dir / f".symlink.{uuid.uuid4().hex[:8]}"
        link.parent.mkdir(exist_ok=True)
        try:
            link.symlink_to(".")
        except OSError as exc:
            if exc.errno not in (*_NOT_SUPPORTED, errno.EPERM, errno.EACCES):
                raise
            raise ConfigError(
                f"The file system of {self.root} has no symlinks ({exc.strerror}), and a data "
                "folder needs them. Use another one, such as ext4, XFS or NFS. For exFAT and CIFS, "
                "there is `hubmirror bundle create`."
            ) from exc
        finally:
            link.unlink(missing_ok=True)

    def identity(self) -> str:
        """A random name of this cache. It is created at the first call, and again in a copy."""
        if not identity(self.root):
            self.work_dir.mkdir(exist_ok=True)
            temporary = self.work_dir / f".id.{uuid.uuid4().hex[:8]}"
            with temporary.open("x") as id_file:
                id_file.write(f"{uuid.uuid4().hex} {os.fstat(id_file.fileno()).st_ino}")
            temporary.replace(self.work_dir / "id")
        return identity(self.root)

    def folder(self, repo: Repo) -> RepoDir:
        """The repository's folder. An existing folder is found without regard to case."""
        exact = self.root / repo.folder_name
        if not exact.is_dir() and (name := self._names_by_key().get(repo.key)):
            return RepoDir(self.root, Repo.from_folder_name(name) or repo, self.root / name)
        return RepoDir(self.root, repo, exact)

    def _names_by_key(self) -> dict[str, str]:
        """The names of all repositories' folders by the keys of these, as they are now. Of two
        names that differ only in case, the first answers, as in `HfCache`."""
        with self._lock:
            listed = set(os.listdir(self.root))
            gone, come = self._listed - listed, listed - self._listed
            if gone:  # another name of the same key may be left
                self._names.clear()
                come = listed
            for name in come:
                if repo := Repo.from_folder_name(name):
                    self._names[repo.key] = min(name, self._names.get(repo.key, name))
            self._listed.clear()
            self._listed.update(listed)
            return self._names

    def folders(self) -> list[RepoDir]:
        """All repositories, sorted by folder name. This includes repositories without a record:
        their first pull did not finish, or rsync still copies them."""
        found = []
        for name in sorted(os.listdir(self.root)):
            repo = Repo.from_folder_name(name)
            if repo is not None and (self.root / name).is_dir():
                found.append(RepoDir(self.root, repo, self.root / name))
        return found

    def has(self, folder: RepoDir, file: RepoFile) -> bool:
        """Whether the blob exists as a real file of the right size."""
        try:
            found = (folder.blobs / file.etag).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return not folder.blobs.is_symlink() and found.st_size == file.size

    @contextlib.contextmanager
    def lock(self, repo: Repo, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the exclusive lock of a repository. `waiting` is called before this blocks, if
        another process holds the lock."""
        with self._open_lock(repo.folder_name) as file:
            if self.has_locks and not try_lock(file):
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """Try to hold the lock `name`: a repository's folder name, or a constant such as
        BUNDLE_LOCK. Yields False if another process holds it or, without locks, if a pull of the
        repository runs."""
        with self._open_lock(name) as file:
            yield try_lock(file) if self.has_locks else not self._is_pulled(name)

    def _is_pulled(self, name: str) -> bool:
        repo = Repo.from_folder_name(name)
        pull = read_pull(self.root, repo) if repo else None
        return pull is not None and pull.is_running

    def _open_lock(self, name: str) -> IO[str]:
        folder = self.work_dir / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / f"{name.lower()}.lock").open("w")

    def accept(
        self,
        folder: RepoDir,
        file: RepoFile,
        staged: Path,
        advanced: Callable[[int], None] = no_progress,
        found: str | None = None,
    ) -> None:
        """Check the digest of a staged file, sync it to disk, and move it to its blob's name.

        `advanced` receives the count of bytes that were read. `found` is the digest of the file,
        if the caller has computed it already; it is computed again before a file is refused.
        Raises CorruptBlobError and removes the file if its bytes do not match. Raises ValueError
        for a file that is not below `.hubmirror`; this file is kept.
        """
        if self.work_dir not in staged.parents or ".." in staged.parts or staged.is_symlink():
            raise ValueError(f"{staged} is not a staged file.")
        size = staged.stat().st_size
        if size != file.size:
            staged.unlink()
            raise CorruptBlobError(file.path, f"it has {size} bytes, not {file.size}")
        if found != file.etag:
            # A digest that was computed while the file was written may have read a byte too early.
            found = digest(staged, file.etag, file.size, advanced)
        if found != file.etag:
            staged.unlink(missing_ok=True)
            raise CorruptBlobError(file.path, f"its digest is {found}, not {file.etag}")
        descriptor = os.open(staged, os.O_RDONLY)
        try:
            if os.fstat(descriptor).st_nlink == 1:  # a hard link shares its mode with other names
                set_mode(descriptor, 0o644)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        folder.blobs.mkdir(parents=True, exist_ok=True)
        staged.replace(folder.blobs / file.etag)
        with self._lock:
            self._index[file.etag] = folder.blobs

    def link_existing_blob(self, folder: RepoDir, file: RepoFile) -> bool:
        """Hard-link (or copy) the blob from another managed repository. False if none has it."""
        existing = self.find_blob(file)
        if existing is None:
            return False
        folder.blobs.mkdir(parents=True, exist_ok=True)
        return share(existing, folder.blobs / file.etag)

    def find_blob(self, file: RepoFile) -> Path | None:
        """The same blob in any repository of the cache that has a record; None if there is none.

        Its digest was checked when it got its name.
        """
        with self._lock:
            if not self._index:
                for other in self.folders():
                    if not other.recorded_commits():
                        continue  # its blobs may be unchecked
                    with contextlib.suppress(OSError):
                        self._index.update({name: other.blobs for name in os.listdir(other.blobs)})
                self._index.setdefault("", self.root)
        blobs = self._index.get(file.etag)
        if blobs is None:
            return None
        existing = blobs / file.etag
        try:
            return existing if existing.lstat().st_size == file.size else None
        except OSError:
            return None

    def set_aside(self, folder: RepoDir, name: str) -> None:
        """Move a corrupt blob to `.hubmirror/corrupt`, where an operator can inspect it."""
        aside = self.work_dir / "corrupt" / folder.repo.folder_name
        aside.mkdir(parents=True, exist_ok=True)
        (folder.blobs / name).replace(aside / name)
        sync_folder(folder.blobs)


def share(source: Path, target: Path) -> bool:
    """Create `target` with the bytes of `source`: by hard link, else by reflink or copy.

    False if `source` cannot be linked. Raises OSError if the copy fails, for example on a full
    disk.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        try:
            os.link(source, temporary)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, *_NOT_SUPPORTED):
                return False
            copy(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def copy(source: Path, target: Path) -> None:
    """Copy the bytes and sync them to disk; by reflink if the file system supports it."""
    with source.open("rb") as reader, target.open("xb") as writer:
        if not _clone(reader.fileno(), writer.fileno()):
            shutil.copyfileobj(reader, writer, _READ)
        writer.flush()
        os.fsync(writer.fileno())


_FICLONE = 0x40049409


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
