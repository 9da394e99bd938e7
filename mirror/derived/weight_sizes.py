"""Proofs that a weight file is cut off: its header or its end says how long it must be.

A file whose header is not that of its format gives no proof.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, BinaryIO

import orjson

from mirror.derived.weight_headers import HeaderError, gguf_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_SAFETENSORS_HEADER = 100_000_000  # the limit of the safetensors library
_MAX_PARSED = 16 * 1024 * 1024
_ZIP_START, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
_MAX_ZIP_END = 22 + 65_535
_PARQUET = b"PAR1"
_ALIGNMENT = 32

# ggml's types: values in a block, bytes of a block (ggml.h, `ggml_type`; ggml.c, `type_traits`).
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


def _safetensors(file: BinaryIO, size: int) -> str:
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if length == 0 or start[8:] not in (b"{", b"") or length > _MAX_SAFETENSORS_HEADER:
        return "its first bytes are zeros" if not any(start) else ""
    if size < 8 + length:
        return _cut_off(size, 8 + length)
    if length > _MAX_PARSED:
        return ""
    try:
        header = orjson.loads(start[8:] + file.read(length - 1))
        ends = [
            tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"
        ]
        end = max(ends, default=0)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return ""
    return _cut_off(size, 8 + length + end) if type(end) is int else ""


def _gguf(file: BinaryIO, size: int) -> str:
    start = file.read(4)
    if start != b"GGUF":
        return "its first bytes are zeros" if not any(start) else ""
    file.seek(0)
    try:
        alignment, tensors = gguf_tensors(file)
    except HeaderError:
        return _cut_off(size, size + 1) if file.tell() >= size else ""
    is_usual = type(alignment) is int and 0 < alignment <= os.sysconf("SC_PAGE_SIZE")
    step = alignment if is_usual else _ALIGNMENT
    data = math.ceil(file.tell() / step) * step
    ends = [offset + _bytes_of(kind, count) for kind, count, offset in tensors]
    return _cut_off(size, data + max(ends)) if ends else ""


def _bytes_of(kind: int, count: int) -> int:
    values, block = _BLOCKS.get(kind, (max(1, count), 1))
    return math.ceil(count / values) * block


def _zip(file: BinaryIO, size: int) -> str:
    """PyTorch's files are zip archives, whose directory is at the end."""
    start = file.read(4)
    if start != _ZIP_START:
        return ""
    file.seek(max(0, size - _MAX_ZIP_END))
    end = file.read().rpartition(_ZIP_END)
    is_whole = end[1] and len(end[2]) >= 18 + int.from_bytes(end[2][16:18], "little")
    return "" if is_whole else "it is cut off: the end of the archive is missing"


def _parquet(file: BinaryIO, size: int) -> str:
    if file.read(4) != _PARQUET:
        return ""
    file.seek(max(0, size - 4))
    return "" if file.read() == _PARQUET and size >= 12 else "it is cut off: its end is missing"


def _cut_off(size: int, needed: int) -> str:
    if size >= needed:
        return ""
    lacks = f"at least {needed:,} by its header"
    return f"it is cut off: it has {size:,} bytes, and needs {lacks}"


SIZE_CHECKS: dict[str, Callable[[BinaryIO, int], str]] = {
    ".safetensors": _safetensors,
    ".gguf": _gguf,
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".zip", ".npz", ".keras"), _zip),
    ".parquet": _parquet,
}
"""By the suffix of a file: the reason why a file of this size is cut off; empty if there is none.
Raises OSError."""
