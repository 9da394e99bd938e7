"""The bytes behind a file: on a disk here, still arriving, or in an object store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol


class Blob(Protocol):
    """An open file of a source. Methods block, and may be called from threads."""

    @property
    def size(self) -> int:
        """Bytes, all of which can be read, though some may be waited for."""

    def pread(self, offset: int, count: int) -> bytes:
        """The bytes from `offset`; fewer than `count` only if the file became shorter. Raises
        BlobUnreadableError or OSError if they cannot be had."""

    def fileno(self) -> int | None:
        """A descriptor from which the kernel can send the whole file now; None if there is none."""

    def redirect_url(self) -> str | None:
        """Another address that has the same bytes, to which a client may be sent; else None."""

    def close(self) -> None:
        """Free what the open file holds. No other method is called afterwards."""


@dataclass(frozen=True, slots=True)
class LocalBlob:
    """A file on a disk, by its open descriptor, which `close` closes."""

    descriptor: int
    size: int

    def pread(self, offset: int, count: int) -> bytes:
        return os.pread(self.descriptor, count, offset)

    def fileno(self) -> int | None:
        return self.descriptor

    def redirect_url(self) -> str | None:
        return None

    def close(self) -> None:
        os.close(self.descriptor)
