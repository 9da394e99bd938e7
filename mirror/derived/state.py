"""The state folder: facts derived from the sources, kept so that they are computed once.

One small JSON file a fact, replaced atomically: any number of processes may share the folder, on
NFS too, and all of it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from mirror.core.files import read_regular

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
    """The lock that servers share whose state folders are apart."""

    def __init__(self, folder: Path, of: Path | None = None) -> None:
        """`of` is the folder that the facts are about: servers that share it, and keep their facts
        apart, share its locks."""
        self.folder = folder
        self._of = of

    def get(self, kind: str, key: str) -> Any | None:
        """The fact, or None where none is kept or it cannot be read. It counts as used."""
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
        """The files of facts that nobody used for 30 days, and that are not needed; of `most` files
        that are looked at, in an order that is another one each time."""
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
        """Keep a fact. A full or read-only disk only costs computing it again."""
        path = self._path(kind, key)
        with contextlib.suppress(OSError, TypeError):  # a time of a file may have over 64 bits
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, orjson.dumps(fact))

    @contextlib.contextmanager
    def lock(self, name: str, give_up: threading.Event) -> Iterator[None]:
        """Hold a lock among all processes that share the folder, or that which its facts are about.

        Goes on without it once `give_up` is set, and where the file system has no locks.
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
        """Open files whose locks stand for `name`. A folder can be locked where it is read-only."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
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
    """What lies in a folder; nothing where it cannot be listed, or a part of its path is a link."""
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
    """Lock an open file among all processes, unless somebody has it. Raises OSError where the file
    system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, body: bytes) -> None:
    """Write a file under a temporary name beside it, sync it to disk, and rename it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
