"""Reads the project name and the METADATA of a wheel, with limits on time and memory.

Python's zipfile is not used: it creates an object for every entry of the archive, trusts the sizes
in the central directory, and raises many kinds of exceptions for damaged files.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from packaging.utils import parse_wheel_filename

if TYPE_CHECKING:
    from pathlib import Path

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_METADATA = 4 * 1024 * 1024
_MAX_ENTRIES = 100_000
_MAX_DIRECTORY = 32 * 1000 * 1000
_MAX_REQUIRES = 200
_WHEEL = re.compile(r"\w[\w.+!-]{1,240}\.whl", re.ASCII)
_NAME = re.compile(rb"[^/]{1,250}\.dist-info/METADATA")

# Records of a zip file, from APPNOTE.TXT of PKWARE.
_END = struct.Struct(
    "<4s4x2H2LH"
)  # entries on this disk, entries, size and offset of the directory
_END_64 = struct.Struct("<4s20x4Q")
_LOCATOR = struct.Struct("<4s16x")
_ENTRY = struct.Struct("<4s4x2H4x3L3H8xL")  # flags, method, crc, sizes, lengths, offset
_LOCAL = struct.Struct("<4s22x2H")  # lengths of the name and of the extra field
_MAX_END_SIZE = _END.size + 0xFFFF
_IN_EXTRA_FIELD = 0xFFFFFFFF
_ENCRYPTED = 1
_STORED, _DEFLATED = 0, 8


class _DamagedError(ValueError):
    """The file is not a wheel, is damaged, or exceeds a limit."""


def wheel_project(filename: str) -> str:
    """The normalized project name in a wheel's filename; empty if it is not a wheel's filename."""
    if not _WHEEL.fullmatch(filename):
        return ""
    try:
        return parse_wheel_filename(filename)[0]
    except ValueError:  # InvalidWheelFilename, and errors that packaging does not catch
        return ""


def metadata(wheel: Path) -> bytes:
    """The METADATA of a wheel; empty if it is missing or the file is not a valid wheel."""
    try:
        descriptor = os.open(wheel, _OPEN)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            return _read(file, status.st_size) if stat.S_ISREG(status.st_mode) else b""
    except (OSError, ValueError, struct.error, zlib.error):
        return b""


def requires_python(body: bytes) -> str:
    """The field Requires-Python of a METADATA file; empty if it is missing or not valid."""
    for line in body.splitlines():
        if not line.strip():
            return ""
        key, _, value = line[: 4 * _MAX_REQUIRES].partition(b":")
        if key.lower() == b"requires-python":
            text = value.decode(errors="replace").strip()
            return text if len(text) <= _MAX_REQUIRES and text.isprintable() else ""
    return ""


@dataclass(frozen=True, slots=True)
class _Entry:
    method: int
    crc: int
    size: int
    full_size: int
    offset: int


def _read(file: IO[bytes], size: int) -> bytes:
    start, length, shift = _directory(file, size)
    entry = _find(_read_at(file, start, length))
    if entry is None:
        return b""
    position = entry.offset + shift
    signature, name, extra = _LOCAL.unpack(_read_at(file, position, _LOCAL.size))
    if signature != b"PK\3\4" or max(entry.size, entry.full_size) > _MAX_METADATA:
        raise _DamagedError
    body = _decompress(entry, _read_at(file, position + _LOCAL.size + name + extra, entry.size))
    if len(body) != entry.full_size or zlib.crc32(body) != entry.crc:
        raise _DamagedError
    return body


def _directory(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """The start and the length of the central directory, and the shift of all offsets.

    The shift is the number of bytes before the archive, which its offsets do not count.
    """
    begin = max(0, size - _MAX_END_SIZE - _LOCATOR.size)
    tail = _read_at(file, begin, size - begin)
    at = tail.rindex(b"PK\5\6")
    _, _, entries, length, offset, _ = _END.unpack_from(tail, at)
    end = begin + at
    if at >= _LOCATOR.size and tail.startswith(b"PK\6\7", at - _LOCATOR.size):
        end -= _LOCATOR.size + _END_64.size
        signature, _, entries, length, offset = _END_64.unpack(_read_at(file, end, _END_64.size))
        if signature != b"PK\6\6":
            raise _DamagedError
    if entries > _MAX_ENTRIES or length > _MAX_DIRECTORY or end - length - offset < 0:
        raise _DamagedError
    return end - length, length, end - length - offset


def _find(directory: bytes) -> _Entry | None:
    """The entry of METADATA. Raises an exception if any entry of the directory is damaged."""
    at, count, entry = 0, 0, None
    while at < len(directory):
        signature, flags, method, crc, size, full, *lengths, offset = _ENTRY.unpack_from(
            directory, at
        )
        count += 1
        if signature != b"PK\1\2" or count > _MAX_ENTRIES:
            raise _DamagedError
        start = at + _ENTRY.size
        name_end, at = start + lengths[0], start + sum(lengths)
        if entry is None and _NAME.fullmatch(directory, start, name_end):
            if flags & _ENCRYPTED:
                raise _DamagedError
            extra = directory[name_end : name_end + lengths[1]]
            entry = _Entry(method, crc, size, full, _true_offset(offset, extra))
    return entry


def _true_offset(offset: int, extra: bytes) -> int:
    """The offset of an entry; an archive of more than 4 GiB has it in the extra field."""
    at = 0
    while offset == _IN_EXTRA_FIELD and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            return int(struct.unpack_from("<Q", extra, at + 4)[0])
        at += 4 + length
    return offset


def _decompress(entry: _Entry, compressed: bytes) -> bytes:
    if entry.method == _STORED:
        return compressed
    if entry.method != _DEFLATED:
        raise _DamagedError
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, _MAX_METADATA + 1)


def _read_at(file: IO[bytes], offset: int, length: int) -> bytes:
    body = os.pread(file.fileno(), length, offset)
    if len(body) != length:
        raise _DamagedError
    return body
