"""The map of a partial file: which of its bytes have arrived.

A partial file is a sparse file with a map beside it. One process, the filler, writes both; all
other processes map the map into memory and read it. A count in the map is written after its bytes,
so a reader never sees a byte that has not arrived.

The map is a file: a header of 64 bytes, then for each block of 16 MiB the count of the bytes that
have arrived from its beginning (4 bytes), then for each block whether these bytes are on the disk
(1 byte). After a crash of the host only bytes on the disk count.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum
from functools import cache
from pathlib import Path

from mirror.core.errors import BlobUnreadableError
from mirror.core.files import open_regular

BLOCK = 16 * 1024 * 1024
"""The size of a block in bytes: that of a Xet block of this server (`mirror/web/xorb.py`)."""

WITHHELD = 1024 * 1024
"""The count of bytes at the end of a file that no reader gets before the digest was checked."""

MAX_SIZE = 8 * 1024**4
"""The largest file that can be fetched in blocks, in bytes."""

_MAGIC = b"hubmfill"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQ36s")
_HEADER_SIZE = 64
_STATE_OFFSET = 12


class FillState(IntEnum):
    """ARRIVING: bytes are missing, or the digest was not checked. WHOLE: all bytes have arrived,
    and match the digest. REFUSED: they do not match it."""

    ARRIVING = 0
    WHOLE = 1
    REFUSED = 2


class FillMap:
    """The map of one partial file of `size` bytes, in memory."""

    def __init__(self, body: mmap.mmap, size: int) -> None:
        self.size = size
        self.blocks = _count_blocks(size)
        self._body = body
        end = _HEADER_SIZE + 4 * self.blocks
        view = memoryview(body)
        self._counts = view[_HEADER_SIZE:end].cast("I")
        self._synced = view[end : end + self.blocks]
        self._state = view[_STATE_OFFSET : _STATE_OFFSET + 4].cast("I")

    @classmethod
    def open_or_create(cls, path: Path, size: int) -> FillMap:
        """The map for the filler. A map of another version or size is replaced. Raises OSError."""
        try:
            found = cls.open(path, size, writable=True)
            if found.state is FillState.REFUSED:
                raise ValueError("a map of wrong bytes")
        except (FileNotFoundError, ValueError):
            path.unlink(missing_ok=True)
            _create(path, size)
            found = cls.open(path, size, writable=True)
        found._forget_lost_bytes()
        return found

    @classmethod
    def open(cls, path: Path, size: int, *, writable: bool = False) -> FillMap:
        """An existing map. Raises OSError, and ValueError for a map of another version or size."""
        if writable:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        else:
            descriptor = open_regular(path, follow=False)
        try:
            length = _length(size)
            if os.fstat(descriptor).st_size != length:
                raise ValueError("a map of another size")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            body = mmap.mmap(descriptor, length, access=access)
        finally:
            os.close(descriptor)
        magic, version, _, its_size, _ = _HEADER.unpack_from(body)
        if (magic, version, its_size) != (_MAGIC, _VERSION, size):
            body.close()
            raise ValueError("a map of another version")
        return cls(body, size)

    @property
    def state(self) -> FillState:
        try:
            return FillState(self._state[0])
        except ValueError:
            return FillState.REFUSED

    @state.setter
    def state(self, state: FillState) -> None:
        self._state[0] = state

    @property
    def present(self) -> int:
        """The count of all bytes that have arrived."""
        return self.size if self.state is FillState.WHOLE else sum(self._counts)

    def length(self, block: int) -> int:
        """The size of a block in bytes."""
        return min(BLOCK, self.size - block * BLOCK)

    def count(self, block: int) -> int:
        """The bytes of a block that have arrived, from its beginning."""
        return min(self._counts[block], self.length(block))

    def is_full(self, block: int) -> bool:
        return self.count(block) == self.length(block)

    def is_synced(self, block: int) -> bool:
        return bool(self._synced[block])

    def add(self, block: int, count: int) -> None:
        """Record that `count` more bytes of a block were written to the file."""
        self._counts[block] += count

    def set_synced(self, block: int) -> None:
        """Record that the bytes of a full block are on the disk."""
        self._synced[block] = 1

    def prefix(self, offset: int = 0) -> int:
        """The count of the bytes from `offset` that have arrived without a gap."""
        block, start = divmod(offset, BLOCK)
        total = 0
        while block < self.blocks:
            count = self.count(block)
            total += max(0, count - start)
            if count < self.length(block):
                break
            block, start = block + 1, 0
        return total

    def ready(self, offset: int) -> int:
        """The count of the bytes from `offset` that a reader may have now, at most some blocks."""
        state = self.state
        if state is FillState.WHOLE:
            return self.size - offset
        if state is FillState.REFUSED:
            raise BlobUnreadableError("The file", "upstream sent wrong bytes")
        block, start = divmod(offset, BLOCK)
        if block >= self.blocks:
            return 0
        count = self.count(block)
        found = count - start
        if count == self.length(block) and block + 1 < self.blocks:
            found += self.count(block + 1)
        return max(0, min(found, max(0, self.size - WITHHELD) - offset))

    def _forget_lost_bytes(self) -> None:
        """After a crash of the host: forget the bytes that may not be on the disk."""
        boot = _boot_id()
        if self._body[24:60] == boot:
            return
        for block in range(self.blocks):
            if not self.is_synced(block):
                self._counts[block] = 0
        self._body[24:60] = boot


def _create(path: Path, size: int) -> None:
    header = _HEADER.pack(_MAGIC, _VERSION, FillState.ARRIVING, size, _boot_id())
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        file.write(header)
        file.truncate(_length(size))
    temporary.replace(path)


def _length(size: int) -> int:
    return _HEADER_SIZE + 5 * _count_blocks(size)


def _count_blocks(size: int) -> int:
    if not 0 <= size <= MAX_SIZE:
        raise ValueError(f"{size} is not the size of a file that can be fetched in blocks")
    return -(-size // BLOCK)


@cache
def _boot_id() -> bytes:
    """The id of this start of the host's kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()[:36].ljust(36)
    except OSError:
        return b"unknown".ljust(36)
