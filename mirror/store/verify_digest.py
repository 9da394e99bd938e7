"""Digests of files as they are on the disk: of whole ones, and of one that is being written."""

from __future__ import annotations

import hashlib
import os
import threading
from io import FileIO
from typing import TYPE_CHECKING, Self

from mirror.core.files import open_regular
from mirror.core.tree import blob_hash

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from mirror.core.tree import RepoFile

_READ = 1024 * 1024
_MIN_TAILED_SIZE = 32 * 1024 * 1024
"""Bytes of a file from which a thread of its own pays."""

_PAUSE = 0.01


def no_progress(_: int) -> None:
    """For those who do not count bytes."""


def digest(path: Path, etag: str, size: int, advanced: Callable[[int], None] = no_progress) -> str:
    """The digest of a file's bytes, of the kind that `etag` is. Raises OSError."""
    running = _Running(etag, size)
    with FileIO(open_regular(path), "rb") as opened:
        while count := running.read(opened):
            advanced(count)
    return running.digest()


def sha256_of(path: Path) -> str:
    """The sha256 of a regular file, in hex. Raises OSError."""
    with open(open_regular(path), "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class _Running:
    """A digest of what was read so far."""

    def __init__(self, etag: str, size: int) -> None:
        self._hash = blob_hash(etag, size)
        self._view = memoryview(bytearray(min(_READ, max(1, size))))
        self.size = 0

    def read(self, opened: FileIO) -> int:
        """Take in what follows, a MiB at most; the count of bytes, 0 at the end."""
        count = opened.readinto(self._view) or 0
        self._hash.update(self._view[:count])
        self.size += count
        return count

    def digest(self) -> str:
        return self._hash.hexdigest()


class TailHasher:
    """Reads a file while a client writes it, so that it is read when it is there.

    The client makes the file at `path` anew for each try, and writes it from its beginning to its
    end. Where it did otherwise, nothing is known: `invalidate` says so.
    """

    def __init__(self, file: RepoFile, path: Path) -> None:
        self._file = file
        self._path = path
        self._running = _Running(file.etag, file.size)
        self._opened: FileIO | None = None
        self._is_invalid = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)

    def __enter__(self) -> Self:
        if self._file.size >= _MIN_TAILED_SIZE:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stop()
        if self._opened is not None:
            self._opened.close()

    @property
    def count(self) -> int:
        """How many bytes were read."""
        return self._running.size

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def invalidate(self) -> None:
        """The client goes back: what was read may be written again."""
        self._is_invalid = True

    def digest(self, written: Path) -> str | None:
        """The digest of the file, which is whole now; None where it must be read again."""
        self._stop()
        if self._opened is None or self._is_invalid:
            return None
        followed, here = os.fstat(self._opened.fileno()), written.stat()
        if (followed.st_ino, followed.st_dev) != (here.st_ino, here.st_dev):
            return None
        while self._running.read(self._opened):
            pass
        return self._running.digest() if self._running.size == here.st_size else None

    def _follow(self) -> None:
        try:
            while not self._stopped.wait(_PAUSE):
                if self._opened is None and self._path.exists():
                    self._opened = FileIO(open_regular(self._path), "rb")
                while self._opened and not self._stopped.is_set():
                    if not self._running.read(self._opened):
                        break
        except OSError:
            self.invalidate()

    def _stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
