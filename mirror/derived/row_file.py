"""The rows of the listing in the state folder, for all workers and for the next start.

The file has one JSON array on each line: first a header (format, version, sources), then one line
for each repository. Only the process that holds the lock replaces the file, as a whole. The mtime
of a second file is the time when the rows were last compared with the sources. All content is
checked when it is read.
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

    from mirror.derived.state import State

_FORMAT = 3
_MAX_BYTES = 1024 * 1024 * 1024
_MAX_ROW = 4 * 1024 * 1024
_MAX_COUNT = 10_000_000
_NUMBERS = ("downloads", "likes", "trendingScore")
_MAX_SKEW_S = 1.0
"""The number of seconds that the clock of another host can be ahead."""
_MAX_UNUSED_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One repository: its row of a listing as JSON, and the number of its readable revisions.

    A repository without a row is waiting: it has no complete revision. `more` holds the fields that
    `full=true` adds to the row, compressed with zlib; empty if they are too long to store. `size`
    is in bytes. `parameters` is the number that upstream gave, else 0. `state` is the
    `Snapshot.status` of `HEAD`, and `pulled_at` the time when a pull recorded it. `problem` says in
    one line what of the repository cannot be served, and why.
    """

    repo: Repo
    row: bytes
    visible: int
    waiting: int
    more: str = ""
    size: int = 0
    parameters: int = 0
    quantisation: str = ""
    state: str = "waiting"
    pulled_at: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry, and the digest of the stamp that it was read with. The digest is empty if the stamp
    is not reliable."""

    stamp: str
    entry: Entry


class RowFile:
    """The file in the state folder for the sources with these labels."""

    def __init__(self, state: State, labels: Sequence[str]) -> None:
        self._header = orjson.dumps([_FORMAT, __version__, *labels])
        name = hashlib.sha256(self._header).hexdigest()[:16]
        self._state = state
        self._folder = state.folder / "listing"
        self._path = self._folder / f"{name}.jsonl"
        self._compared = self._folder / f"{name}.compared"

    def stamp(self) -> tuple[int, int, int]:
        """A value that changes when the file is replaced; zeros if there is no file."""
        try:
            found = os.stat(self._path)
        except OSError:
            return 0, 0, 0
        return found.st_ino, found.st_size, found.st_mtime_ns

    def age(self) -> float:
        """The seconds since the rows were last compared with the sources."""
        try:
            age = time.time() - os.stat(self._compared).st_mtime
        except OSError:
            return math.inf
        return age if age > -_MAX_SKEW_S else math.inf

    def read(self) -> dict[str, Kept] | None:
        """The rows by the keys of repositories; None if there is no file, or its header is
        different."""
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
        """Replace the file. `is_whole` says whether `rows` are all rows. If the disk is full or
        read-only, nothing is stored, and the repositories are read again later."""
        body = b"\n".join([self._header, *(_line(kept) for kept in rows), b""])
        with contextlib.suppress(OSError):
            self._state.make_folder(self._folder)
            if not is_whole:
                self._compared.unlink(missing_ok=True)
            write_atomically(self._path, body)
            self._remove_others()

    def mark_compared(self) -> None:
        """Record that the rows match the sources now."""
        with contextlib.suppress(OSError):
            self._compared.touch()

    def _remove_others(self) -> None:
        """Remove row files of other versions and sources that have not been used for 30 days."""
        for path in self._folder.iterdir():
            if time.time() - path.stat().st_mtime > _MAX_UNUSED_S:
                path.unlink(missing_ok=True)


def _line(kept: Kept) -> bytes:
    entry = kept.entry
    repo = entry.repo
    return orjson.dumps([
        repo.repo_type.value, repo.repo_id, kept.stamp, entry.visible, entry.waiting,
        entry.row.decode(), entry.more, entry.size, entry.parameters, entry.quantisation,
        entry.state, entry.pulled_at, entry.problem,
    ])  # fmt: skip


def _parse(line: bytes) -> Kept | None:
    """Parse a line from `_line`; None if it is invalid."""
    try:
        repo_type, repo_id, stamp, visible, waiting, row, more, *rest = orjson.loads(line)
        size, parameters, quantisation, state, pulled_at, problem = rest
        repo = Repo(RepoType(repo_type), repo_id)
    except (ValueError, TypeError):
        return None
    texts = (stamp, row, more, quantisation, state, pulled_at, problem)
    counts = (visible, waiting)
    if not all(type(text) is str and len(text) <= _MAX_ROW for text in texts):
        return None
    if not all(type(count) is int and 0 <= count <= _MAX_COUNT for count in counts):
        return None
    if not all(type(number) is int and 0 <= number < 2**63 for number in (size, parameters)):
        return None
    if row and not _is_row(row, repo):
        return None
    entry = Entry(
        repo, row.encode(), visible, waiting, more, size, parameters, quantisation, state,
        pulled_at, problem,
    )  # fmt: skip
    return Kept(stamp, entry)


def _is_row(row: str, repo: Repo) -> bool:
    try:
        fields: Any = orjson.loads(row)
    except orjson.JSONDecodeError:
        return False
    return (
        isinstance(fields, dict)
        and fields.get("id") == repo.repo_id
        and isinstance(fields.get("tags", []), list)
        and all(type(fields.get(name, 0)) in (int, float) for name in _NUMBERS)
        and all(isinstance(fields.get(name, ""), str) for name in ("lastModified", "createdAt"))
    )
