"""The content of a file: on a local disk, in a download that still runs, or in an object store."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Protocol


class Blob(Protocol):
    """An open file of a source. Methods block, and can be called from threads."""

    @property
    def size(self) -> int:
        """The size in bytes, including the bytes that are not ready yet."""

    def ready(self, offset: int) -> int:
        """The count of bytes from `offset` that can be read now. 0 means that they still have to
        arrive: call this again after a pause. Does not block. Raises BlobUnreadableError if they
        will not arrive."""

    def pread(self, offset: int, count: int) -> bytes:
        """The bytes from `offset`, of those that are ready; fewer than `count` only if the file
        became shorter. Raises BlobUnreadableError or OSError if they cannot be read."""

    def fileno(self) -> int | None:
        """A descriptor of the file, whose ready bytes the kernel can send (sendfile); None if
        there is none."""

    def redirect_url(self) -> str | None:
        """Another URL of the same bytes, to which a client can be redirected; else None."""

    def close(self) -> None:
        """Free the resources of the open file. No other method is called afterwards."""


@dataclass(slots=True)
class _Descriptor:
    """An open file, and the number of blobs that read it."""

    number: int
    users: int = 0


_open_files: dict[tuple[int, int], _Descriptor] = {}
_lock = threading.Lock()


class LocalBlob:
    """A file on a local disk. All blobs of one file share a descriptor, since reads name their
    offset: a thousand downloads of a model need no thousand descriptors."""

    __slots__ = ("_file", "_key", "size")

    def __init__(self, descriptor: int, size: int) -> None:
        """Takes over an open descriptor of the file."""
        found = os.fstat(descriptor)
        self._key = (found.st_dev, found.st_ino)
        self.size = size
        with _lock:
            self._file = _open_files.setdefault(self._key, _Descriptor(descriptor))
            self._file.users += 1
        if self._file.number != descriptor:
            os.close(descriptor)

    def ready(self, offset: int) -> int:
        return self.size - offset

    def pread(self, offset: int, count: int) -> bytes:
        return os.pread(self._file.number, count, offset)

    def fileno(self) -> int | None:
        return self._file.number

    def redirect_url(self) -> str | None:
        return None

    def close(self) -> None:
        with _lock:
            self._file.users -= 1
            if self._file.users:
                return
            del _open_files[self._key]
        os.close(self._file.number)
