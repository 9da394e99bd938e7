"""The blobs of a managed cache: a file gets its digest for a name once its bytes were read and
found right, and its bytes are on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mirror.core.errors import CorruptBlobError
from mirror.core.repo import Repo
from mirror.derived.state import sync_folder, try_lock
from mirror.sources.repo_dir import WORK_DIR, RepoDir, identity
from mirror.store.verify_digest import digest, no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.core.tree import RepoFile

BUNDLE_LOCK = "bundle"
"""The lock that whoever applies a bundle holds."""

_READ = 4 * 1024 * 1024


@dataclass(frozen=True)
class Cache:
    """A managed cache as those who write to it see it.

    What is under way lies in a folder of its own on the same file system, `.hubmirror`, which no
    reader looks at and no copy needs.
    """

    root: Path
    _index: dict[str, Path] = field(default_factory=dict, compare=False)
    _listed: set[str] = field(default_factory=set, compare=False)
    _names: dict[str, str] = field(default_factory=dict, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    @classmethod
    def of(cls, root: Path) -> Cache:
        """The cache at `root`, which is made."""
        root.mkdir(parents=True, exist_ok=True)
        return cls(Path(os.path.realpath(root)))

    @property
    def work_dir(self) -> Path:
        return self.root / WORK_DIR

    def staging(self, repo: Repo) -> Path:
        return self.work_dir / "staging" / repo.folder_name

    def identity(self) -> str:
        """A name for this cache, invented when it is first asked for, and again in a copy."""
        if not identity(self.root):
            self.work_dir.mkdir(exist_ok=True)
            temporary = self.work_dir / f".id.{uuid.uuid4().hex[:8]}"
            with temporary.open("x") as opened:
                opened.write(f"{uuid.uuid4().hex} {os.fstat(opened.fileno()).st_ino}")
            temporary.replace(self.work_dir / "id")
        return identity(self.root)

    def folder(self, repo: Repo) -> RepoDir:
        """The repository's folder, in the case in which it is here already."""
        exact = self.root / repo.folder_name
        if not exact.is_dir() and (name := self._names_by_key().get(repo.key)):
            return RepoDir(self.root, Repo.from_folder_name(name) or repo, self.root / name)
        return RepoDir(self.root, repo, exact)

    def _names_by_key(self) -> dict[str, str]:
        """The names of all repositories' folders by the keys of these, as they are now."""
        with self._lock:
            listed = set(os.listdir(self.root))
            gone, come = self._listed - listed, listed - self._listed
            if gone:  # another name of the same key may be left
                self._names.clear()
                come = listed
            for name in come:
                if repo := Repo.from_folder_name(name):
                    self._names[repo.key] = name
            self._listed.clear()
            self._listed.update(listed)
            return self._names

    def folders(self) -> list[RepoDir]:
        """All repositories, in the order of their names; those without a record too, whose first
        pull was not finished, or which are arriving."""
        found = []
        for name in sorted(os.listdir(self.root)):
            repo = Repo.from_folder_name(name)
            if repo is not None and (self.root / name).is_dir():
                found.append(RepoDir(self.root, repo, self.root / name))
        return found

    def has(self, folder: RepoDir, file: RepoFile) -> bool:
        """Whether the blob is in place with its size."""
        try:
            found = (folder.blobs / file.etag).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return not folder.blobs.is_symlink() and found.st_size == file.size

    @contextlib.contextmanager
    def lock(self, repo: Repo, waiting: Callable[[], None]) -> Iterator[None]:
        """Be the only one that changes a repository; `waiting` is called if somebody else does."""
        with self._open_lock(repo.folder_name) as file:
            if not try_lock(file):
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """Hold the lock of a repository's folder, or of another job, unless somebody has it."""
        with self._open_lock(name) as file:
            yield try_lock(file)

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
        """Give a file its blob's name, once it is proven and on the disk. `found` is its digest,
        where it was read already.

        Raises CorruptBlobError, and removes the file, where its bytes are not the blob's. Raises
        ValueError for a file that is not below `.hubmirror`, and leaves that alone.
        """
        if self.work_dir not in staged.parents or ".." in staged.parts or staged.is_symlink():
            raise ValueError(f"{staged} is not a staged file.")
        size = staged.stat().st_size
        if size != file.size:
            staged.unlink()
            raise CorruptBlobError(file.path, f"it has {size} bytes, not {file.size}")
        found = found or digest(staged, file.etag, file.size, advanced)
        if found != file.etag:
            staged.unlink(missing_ok=True)
            raise CorruptBlobError(file.path, f"its digest is {found}, not {file.etag}")
        descriptor = os.open(staged, os.O_RDONLY)
        try:
            if os.fstat(descriptor).st_nlink == 1:  # else it is somebody's own file as well
                os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        folder.blobs.mkdir(parents=True, exist_ok=True)
        staged.replace(folder.blobs / file.etag)
        with self._lock:
            self._index[file.etag] = folder.blobs

    def link_twin(self, folder: RepoDir, file: RepoFile) -> bool:
        """Take the blob from another managed repository, where one has it."""
        twin = self.twin(file)
        if twin is None:
            return False
        folder.blobs.mkdir(parents=True, exist_ok=True)
        return share(twin, folder.blobs / file.etag)

    def twin(self, file: RepoFile) -> Path | None:
        """A blob of the same name anywhere in the cache, which was proven when it got it."""
        with self._lock:
            if not self._index:
                for one in self.folders():
                    if not one.recorded_commits():
                        continue  # nobody has proven what lies there
                    with contextlib.suppress(OSError):
                        self._index.update({name: one.blobs for name in os.listdir(one.blobs)})
                self._index.setdefault("", self.root)
        blobs = self._index.get(file.etag)
        if blobs is None:
            return None
        twin = blobs / file.etag
        try:
            return twin if twin.lstat().st_size == file.size else None
        except OSError:
            return None

    def set_aside(self, folder: RepoDir, name: str) -> None:
        """Take a corrupt blob away from readers; it stays for whoever wants to know why."""
        aside = self.work_dir / "corrupt" / folder.repo.folder_name
        aside.mkdir(parents=True, exist_ok=True)
        (folder.blobs / name).replace(aside / name)
        sync_folder(folder.blobs)


def share(source: Path, target: Path) -> bool:
    """Put the same bytes at `target`, by hard link, else by a copy (which shares the bytes where
    the file system can). False where it was not possible; raises OSError for a full disk."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        try:
            os.link(source, temporary)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                return False
            copy(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def copy(source: Path, target: Path) -> None:
    """A copy of the bytes, synced to disk; by reflink or in the kernel where that is possible."""
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
