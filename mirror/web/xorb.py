"""Xet's xorbs, made from a plain file as it is read.

hf_xet fetches a file as terms, each a run of chunks of a xorb. Nothing is stored for that: block
`n` of a file (16 MiB) is a virtual xorb of fixed chunks, none compressed, each behind a head of
eight bytes. The client checks lengths alone (xet-core `xorb_deserialize`, hf_xet 1.1 to 1.8).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 128 * 1024
HEAD = 8
BLOCK = 16 * 1024 * 1024
_STORED = HEAD + CHUNK
_CHUNKS = BLOCK // CHUNK

Segment = tuple[bytes, int]
"""Some bytes, and how many bytes of the file follow them."""


@dataclass(frozen=True, slots=True)
class Term:
    """Chunks `[start, end)` of one block, `unpacked_length` bytes of the file."""

    block: int
    start: int
    end: int
    unpacked_length: int

    @property
    def bytes_start(self) -> int:
        """Where the chunks begin in the xorb."""
        return self.start * _STORED

    @property
    def bytes_end(self) -> int:
        """Their last byte in the xorb."""
        return self.bytes_start + self.unpacked_length + HEAD * (self.end - self.start) - 1

    def xorb_hash(self, xet_hash: str) -> str:
        """A unique name for the block of a file; clients identify xorbs by it."""
        return hashlib.sha256(f"{xet_hash}:{BLOCK}:{self.block}".encode()).hexdigest()


def terms(size: int, first: int, last: int) -> Iterator[Term]:
    """The terms of a file that hold its bytes `first` to `last`, which is inside it."""
    chunk, end = first // CHUNK, last // CHUNK + 1
    while chunk < end:
        block, local = divmod(chunk, _CHUNKS)
        stop = min(end, (block + 1) * _CHUNKS)
        yield Term(block, local, local + stop - chunk, min(stop * CHUNK, size) - chunk * CHUNK)
        chunk = stop


@dataclass(frozen=True, slots=True)
class Xorb:
    """Block `block` of a file of `size` bytes, as a xorb. Raises ValueError past the end."""

    size: int
    block: int

    def __post_init__(self) -> None:
        if not 0 <= self.block * BLOCK < self.size:
            raise ValueError("a block past the end")

    @property
    def stored_size(self) -> int:
        length = min(BLOCK, self.size - self.block * BLOCK)
        return length + HEAD * -(-length // CHUNK)

    def cut(self, offset: int, count: int) -> tuple[int, list[Segment]]:
        """Bytes of the xorb from `offset`: where they begin in the file, and the parts."""
        chunk, skip = divmod(offset, _STORED)
        start = self.block * BLOCK + chunk * CHUNK
        position = start + max(0, skip - HEAD)
        parts: list[Segment] = []
        while count:
            length = min(CHUNK, self.size - start)
            head = _head(length)[skip : skip + count]
            body = min(length - max(0, skip - HEAD), count - len(head))
            parts.append((head, body))
            count -= len(head) + body
            start, skip = start + CHUNK, 0
        return position, parts


def _head(length: int) -> bytes:
    """Version 0, stored length, scheme 0 (none), unpacked length."""
    return (length << 8 | length << 40).to_bytes(HEAD, "little")
