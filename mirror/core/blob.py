"""The content of a file: on a local disk, in a download that still runs, or in an object store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol


class Blob(Protocol):
    """An open file of a source. Methods block, and can be called from threads."""

    @property
    def size(self) -> int:
        """The size in bytes. All bytes can be read, but a read can block until they arrive."""

    def pread(self, offset: int, count: int) -> bytes:
        """The bytes from `offset`; fewer than `count` only if the file became shorter. Raises
        BlobUnreadableError or OSError if they cannot be read."""

    def fileno(self) -> int | None:
        """A descriptor of the whole file that the kernel can send (sendfile); None if there is
        none."""

    def redirect_url(self) -> str | None:
        """Another URL of the same bytes, to which a client can be redirected; else None."""

    def close(self) -> None:
        """Free the resources of the open file. No other method is called afterwards."""


@dataclass(frozen=True, slots=True)
class LocalBlob:
    """A file on a local disk. `close` closes its descriptor."""

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
