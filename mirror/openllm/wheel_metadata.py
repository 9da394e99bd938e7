"""The name and the METADATA of a wheel, read in bounded work whatever the file is.

zipfile makes an object of every entry before it can be asked for one, believes the directory, and
raises many kinds of errors for damaged files.
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

# APPNOTE.TXT of PKWARE: the records of a zip file that are read here.
_END = struct.Struct("<4s4x2H2LH")  # entries here, entries, bytes and offset of the directory
_END_64 = struct.Struct("<4s20x4Q")
_LOCATOR = struct.Struct("<4s16x")
_ENTRY = struct.Struct("<4s4x2H4x3L3H8xL")  # flags, method, crc, sizes, lengths, offset
_LOCAL = struct.Struct("<4s22x2H")  # lengths of the name and of what follows it
_LONGEST_END = _END.size + 0xFFFF
_UNKNOWN = 0xFFFFFFFF
_ENCRYPTED = 1
_STORED, _DEFLATED = 0, 8


class _DamagedError(ValueError):
    """It is no wheel that can be read within the limits."""


def wheel_project(filename: str) -> str:
    """The normalized project that a wheel's name belongs to; empty for any other name."""
    if not _WHEEL.fullmatch(filename):
        return ""
    try:
        return parse_wheel_filename(filename)[0]
    except ValueError:  # InvalidWheelFilename, and what it does not cover
        return ""


def metadata(wheel: Path) -> bytes:
    """A wheel's METADATA; empty where it has none, is damaged, or is not what a wheel is."""
    try:
        descriptor = os.open(wheel, _OPEN)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            found = os.fstat(descriptor)
            return _read(file, found.st_size) if stat.S_ISREG(found.st_mode) else b""
    except (OSError, ValueError, struct.error, zlib.error):
        return b""


def requires_python(body: bytes) -> str:
    """What METADATA says of the versions of Python; empty where it says nothing."""
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
    entry = _find(_part(file, start, length))
    if entry is None:
        return b""
    at = entry.offset + shift
    mark, name, extra = _LOCAL.unpack(_part(file, at, _LOCAL.size))
    if mark != b"PK\3\4" or max(entry.size, entry.full_size) > _MAX_METADATA:
        raise _DamagedError
    body = _plain(entry, _part(file, at + _LOCAL.size + name + extra, entry.size))
    if len(body) != entry.full_size or zlib.crc32(body) != entry.crc:
        raise _DamagedError
    return body


def _directory(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """Where the directory begins, its length, and how far all lies behind where it says."""
    begin = max(0, size - _LONGEST_END - _LOCATOR.size)
    tail = _part(file, begin, size - begin)
    at = tail.rindex(b"PK\5\6")
    _, _, entries, length, offset, _ = _END.unpack_from(tail, at)
    end = begin + at
    if at >= _LOCATOR.size and tail.startswith(b"PK\6\7", at - _LOCATOR.size):
        end -= _LOCATOR.size + _END_64.size
        mark, _, entries, length, offset = _END_64.unpack(_part(file, end, _END_64.size))
        if mark != b"PK\6\6":
            raise _DamagedError
    if entries > _MAX_ENTRIES or length > _MAX_DIRECTORY or end - length - offset < 0:
        raise _DamagedError
    return end - length, length, end - length - offset


def _find(directory: bytes) -> _Entry | None:
    """The entry of METADATA; the whole directory must be right."""
    at, count, entry = 0, 0, None
    while at < len(directory):
        mark, flags, method, crc, size, full, *lengths, offset = _ENTRY.unpack_from(directory, at)
        count += 1
        if mark != b"PK\1\2" or count > _MAX_ENTRIES:
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
    """In a file of more than 4 GiB it stands in the extra field. METADATA itself is small."""
    at = 0
    while offset == _UNKNOWN and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            return int(struct.unpack_from("<Q", extra, at + 4)[0])
        at += 4 + length
    return offset


def _plain(entry: _Entry, packed: bytes) -> bytes:
    if entry.method == _STORED:
        return packed
    if entry.method != _DEFLATED:
        raise _DamagedError
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, _MAX_METADATA + 1)


def _part(file: IO[bytes], offset: int, length: int) -> bytes:
    body = os.pread(file.fileno(), length, offset)
    if len(body) != length:
        raise _DamagedError
    return body
