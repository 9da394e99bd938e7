"""Computes digests of files on disk, including a file that a download still writes."""

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
"""Smaller files are hashed after the download, without an extra thread; in bytes."""

_POLL_INTERVAL_S = 0.01


def no_progress(_: int) -> None:
    """A progress callback that does nothing."""


def digest(path: Path, etag: str, size: int, advanced: Callable[[int], None] = no_progress) -> str:
    """The digest of a regular file, in hex: sha256 or git's sha1, whichever `etag` is.

    `size` is the size in bytes; git hashes it too. `advanced` receives the count of each block of
    bytes. Raises OSError.
    """
    hasher = _BlobHasher(etag, size)
    with FileIO(open_regular(path), "rb") as file:
        while count := hasher.read(file):
            advanced(count)
    return hasher.digest()


def sha256_of(path: Path) -> str:
    """The sha256 of a regular file, in hex. Raises OSError."""
    with open(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _BlobHasher:
    """Hashes a file block by block; `size` is the count of bytes so far."""

    def __init__(self, etag: str, size: int) -> None:
        self._hash = blob_hash(etag, size)
        self._view = memoryview(bytearray(min(_READ, max(1, size))))
        self.size = 0

    def read(self, file: FileIO) -> int:
        """Hash the next block, at most 1 MiB; returns its size in bytes, 0 at the end."""
        count = file.readinto(self._view) or 0
        self._hash.update(self._view[:count])
        self.size += count
        return count

    def digest(self) -> str:
        return self._hash.hexdigest()


class TailHasher:
    """Hashes a file in a thread while huggingface_hub downloads it.

    The download must create the file at `path` for each try, and write it from start to end. If it
    does not, the caller calls `invalidate`, and the file must be hashed again.
    """

    def __init__(self, file: RepoFile, path: Path) -> None:
        self._file = file
        self._path = path
        self._hasher = _BlobHasher(file.etag, file.size)
        self._reader: FileIO | None = None
        self._is_invalid = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tail-hasher", daemon=True)

    def __enter__(self) -> Self:
        if self._file.size >= _MIN_TAILED_SIZE:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stop()
        if self._reader is not None:
            self._reader.close()

    @property
    def count(self) -> int:
        """The count of bytes that were hashed."""
        return self._hasher.size

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def invalidate(self) -> None:
        """Discard the digest, because the download may write these bytes again."""
        self._is_invalid = True

    def digest(self, written: Path) -> str | None:
        """The digest of the finished file `written`; None if it must be hashed again."""
        self._stop()
        if self._reader is None or self._is_invalid:
            return None
        hashed, finished = os.fstat(self._reader.fileno()), written.stat()
        if (hashed.st_ino, hashed.st_dev) != (finished.st_ino, finished.st_dev):
            return None
        while self._hasher.read(self._reader):
            pass
        return self._hasher.digest() if self._hasher.size == finished.st_size else None

    def _follow(self) -> None:
        try:
            while not self._stopped.wait(_POLL_INTERVAL_S):
                if self._reader is None and self._path.exists():
                    self._reader = FileIO(open_regular(self._path), "rb")
                while self._reader and not self._stopped.is_set():
                    if not self._hasher.read(self._reader):
                        break
        except OSError:
            self.invalidate()

    def _stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
