"""The rows of the listing in the state folder, so that a restart, and each worker, finds them.

The file holds one JSON array a line: first what the rows were made by, then one line for each
repository. It is replaced whole by the one process that holds the lock. The mtime of a file beside
it is when the sources were last compared with the rows. Whatever it holds is checked when it is
read.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from mirror import __version__
from mirror.core.files import read_regular
from mirror.core.repo import Repo, RepoType
from mirror.derived.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_FORMAT = 1
_MAX_BYTES = 1024 * 1024 * 1024
_MAX_ROW = 4 * 1024 * 1024
_MAX_COUNT = 10_000_000
_NUMBERS = ("downloads", "likes", "trendingScore")
_MAX_SKEW_S = 1.0
"""Seconds by which another host's clock may be ahead."""
_MAX_UNUSED_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One repository: its row of a listing as JSON, and how many of its revisions can be read.

    A repository without a row is waiting: none of its revisions is complete. `more` is what
    `full=true` adds to the row, compressed by zlib; empty where it is too long to be kept.
    """

    repo: Repo
    row: bytes
    visible: int
    waiting: int
    more: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry, and the digest of the stamp under which it was read; empty where that cannot be
    relied on."""

    stamp: str
    entry: Entry


class RowFile:
    """The file below `folder` for sources that are declared as `labels` say."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._header = orjson.dumps([_FORMAT, __version__, *labels])
        name = hashlib.sha256(self._header).hexdigest()[:16]
        self._folder = folder / "listing"
        self._path = self._folder / f"{name}.jsonl"
        self._compared = self._folder / f"{name}.compared"

    def stamp(self) -> tuple[int, int, int]:
        """A value that changes when the file is replaced; zeros where there is none."""
        try:
            found = os.stat(self._path)
        except OSError:
            return 0, 0, 0
        return found.st_ino, found.st_size, found.st_mtime_ns

    def age(self) -> float:
        """For how many seconds the rows have not been compared with the sources."""
        try:
            age = time.time() - os.stat(self._compared).st_mtime
        except OSError:
            return math.inf
        return age if age > -_MAX_SKEW_S else math.inf

    def read(self) -> dict[str, Kept] | None:
        """What the file holds, by the keys of repositories; None where there is no file, or
        something else made it."""
        try:
            body = read_regular(self._path, _MAX_BYTES)
        except OSError:
            return None
        lines = body.split(b"\n")
        del body
        if lines[0] != self._header:
            return None
        found = (_parse(line) for line in lines[1:])
        return {kept.entry.repo.key: kept for kept in found if kept is not None}

    def write(self, rows: Iterable[Kept], *, is_whole: bool) -> None:
        """Replace the file, by one that holds all rows or the first of them. A full or read-only
        disk only costs reading the repositories again."""
        body = b"\n".join([self._header, *(_line(kept) for kept in rows), b""])
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            if not is_whole:
                self._compared.unlink(missing_ok=True)
            write_atomically(self._path, body)
            self._remove_others()

    def mark_compared(self) -> None:
        """Say that the rows are what the sources hold now."""
        with contextlib.suppress(OSError):
            self._compared.touch()

    def _remove_others(self) -> None:
        """Remove the rows of other versions and declarations that nobody compared for long."""
        for path in self._folder.iterdir():
            if time.time() - path.stat().st_mtime > _MAX_UNUSED_S:
                path.unlink(missing_ok=True)


def _line(kept: Kept) -> bytes:
    entry = kept.entry
    repo = entry.repo
    return orjson.dumps([
        repo.repo_type.value, repo.repo_id, kept.stamp, entry.visible, entry.waiting,
        entry.row.decode(), entry.more,
    ])  # fmt: skip


def _parse(line: bytes) -> Kept | None:
    """A line as `_line` wrote it; None for anything else."""
    try:
        repo_type, repo_id, stamp, visible, waiting, row, more = orjson.loads(line)
        repo = Repo(RepoType(repo_type), repo_id)
    except (ValueError, TypeError):
        return None
    texts, counts = (stamp, row, more), (visible, waiting)
    if not all(type(text) is str and len(text) <= _MAX_ROW for text in texts):
        return None
    if not all(type(count) is int and 0 <= count <= _MAX_COUNT for count in counts):
        return None
    if row and not _is_row(row, repo):
        return None
    return Kept(stamp, Entry(repo, row.encode(), visible, waiting, more))


def _is_row(row: str, repo: Repo) -> bool:
    try:
        told: Any = orjson.loads(row)
    except orjson.JSONDecodeError:
        return False
    return (
        isinstance(told, dict)
        and told.get("id") == repo.repo_id
        and isinstance(told.get("tags", []), list)
        and all(type(told.get(name, 0)) in (int, float) for name in _NUMBERS)
        and all(isinstance(told.get(name, ""), str) for name in ("lastModified", "createdAt"))
    )
