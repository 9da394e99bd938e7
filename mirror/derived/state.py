"""The state folder: stored facts from the sources, so that each fact is computed once.

Each fact is one small JSON file, which is replaced atomically. Any number of processes can share
the folder, also on NFS, and the operator can delete it at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from mirror.core.files import read_regular, set_mode
from mirror.core.presence import device_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

_MAX_FACT = 64 * 1024 * 1024
_LOCK_POLL_S = 0.1  # seconds between two tries
_DAY_S = 24 * 3600.0
_UNUSED_S = 30 * _DAY_S


class State:
    """A store of JSON facts by kind and key."""

    MAIN = "digests"
    """The lock that servers share even if they have different state folders."""

    def __init__(self, folder: Path, of: Path | None = None) -> None:
        """`of` is the data folder that the facts describe. Servers with the same data folder and
        different state folders share a lock on the data folder."""
        self.folder = folder
        self._of = of
        self._device = device_of(folder.parent)

    def get(self, kind: str, key: str) -> Any | None:
        """The fact, or None if it is not stored or cannot be read. Marks the fact as used."""
        path = self._path(kind, key)
        try:
            fact = orjson.loads(read_regular(path, _MAX_FACT))
        except (OSError, orjson.JSONDecodeError):
            return None
        with contextlib.suppress(OSError):
            if time.time() - os.stat(path).st_mtime > _DAY_S:
                os.utime(path)
        return fact

    def unused(self, kind: str, is_needed: Callable[[Any], bool], most: int) -> Iterator[Path]:
        """The files of facts that were not used for 30 days and are not needed. Checks at most
        `most` files, in random order."""
        left = most
        for folder in _shuffled(Path(os.path.realpath(self.folder), kind)):
            for path in _shuffled(folder):
                if path.suffix != ".json":
                    continue
                if left == 0:
                    return
                left -= 1
                with contextlib.suppress(OSError):
                    if time.time() - path.lstat().st_mtime > _UNUSED_S and not is_needed(
                        _fact(path)
                    ):
                        yield path

    def put(self, kind: str, key: str, fact: Any) -> None:
        """Store a fact. If the disk is full or read-only, nothing is stored, and the fact is
        computed again later."""
        path = self._path(kind, key)
        with contextlib.suppress(OSError, TypeError):  # a time of a file may have over 64 bits
            self.make_folder(path.parent)
            write_atomically(path, orjson.dumps(fact))

    def make_folder(self, folder: Path) -> None:
        """Create a folder of the state folder. Raises OSError.

        If the disk of the state folder is unmounted, nothing is created on its mount point.
        """
        if not self.folder.is_dir() and device_of(self.folder.parent) != self._device:
            raise FileNotFoundError(errno.ENOENT, "its disk is not mounted", str(self.folder))
        folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str, give_up: threading.Event) -> Iterator[None]:
        """Hold a lock among all processes with the same state folder or, for MAIN, data folder.

        Continues without the lock if `give_up` is set, or if the file system has no locks.
        """
        with contextlib.ExitStack() as stack:
            for descriptor in self._lockable(name):
                stack.callback(os.close, descriptor)
                with contextlib.suppress(OSError):
                    while not try_lock(descriptor) and not give_up.wait(_LOCK_POLL_S):
                        pass
            yield

    def is_locked(self, name: str) -> bool:
        """Whether another process holds the lock."""
        with contextlib.ExitStack() as stack:
            for descriptor in self._lockable(name):
                stack.callback(os.close, descriptor)
                with contextlib.suppress(OSError):
                    if not try_lock(descriptor):
                        return True
        return False

    def _lockable(self, name: str) -> Iterator[int]:
        """The open files to lock for `name`. A folder can be locked even if it is read-only."""
        with contextlib.suppress(OSError):
            self.make_folder(self.folder)
            yield os.open(
                self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
        if self._of is not None and name == self.MAIN:
            with contextlib.suppress(OSError):
                yield os.open(self._of, os.O_RDONLY | os.O_CLOEXEC)

    def _path(self, kind: str, key: str) -> Path:
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        return self.folder / kind / name[:2] / f"{name[2:]}.json"


def _shuffled(folder: Path) -> list[Path]:
    """The paths in a folder, in random order; empty if it cannot be listed or its path contains a
    symlink."""
    try:
        if os.path.realpath(folder) != str(folder):
            return []
        names = os.listdir(folder)
    except OSError:
        return []
    random.shuffle(names)
    return [folder / name for name in names]


def _fact(path: Path) -> Any | None:
    try:
        return orjson.loads(read_regular(path, _MAX_FACT))
    except (OSError, orjson.JSONDecodeError):
        return None


def try_lock(file: IO[str] | int) -> bool:
    """Lock an open file among all processes. Returns False if another process holds the lock.
    Raises OSError if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, body: bytes, *, durable: bool = True) -> None:
    """Write a file under a temporary name beside it, sync it to disk, and rename it. A file that is
    not `durable` is not synced: it may be lost or damaged if the host fails. An OSError names
    `path`."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            set_mode(file.fileno(), 0o644)
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException as exc:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(exc, OSError):
            exc.filename = str(path)
        raise
