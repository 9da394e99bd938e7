"""One file on its way from upstream into the managed cache."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from mirror.core.errors import CorruptBlobError, UpstreamError
from mirror.core.tree import blob_hash
from mirror.pull_through.fill_map import BLOCK, FillState
from mirror.pull_through.partial_blob import open_for_writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.core.tree import RepoFile
    from mirror.pull_through.partial_blob import PartialPaths
    from mirror.sync.ranges import RangeReader

_MAX_STREAMS = 4
"""Connections to upstream for one file."""

_MAX_RUN = 4
"""Blocks that are requested at once, by one connection."""

_HASH_READ = 1024 * 1024
_SYNC_EVERY = 16
"""Full blocks after which the bytes are synced to the disk."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks that one connection fetches: from `first` to `end` (exclusive)."""

    first: int
    end: int


class Fill:
    """A partial file, for the filler. All methods are thread-safe.

    `take` chooses the blocks that a thread fetches next: those that a reader waits for come first.
    """

    def __init__(
        self,
        file: RepoFile,
        paths: PartialPaths,
        reader: RangeReader,
        received: Callable[[int], None],
    ) -> None:
        """Continues with the bytes that have arrived before. `received` is called with the count
        of each piece that arrives. Raises OSError."""
        self.file = file
        self.paths = paths
        self.reader = reader
        self.requested_at = time.monotonic()
        self.not_before = 0.0
        self.failures = 0
        self.error: UpstreamError | None = None
        self._received = received
        self._descriptor, self.map = open_for_writing(paths, file.size)
        self._lock = threading.Lock()
        self._claimed: set[int] = set()
        self._requested: deque[int] = deque()
        self._cursor = 0
        self._streams = 0
        self.is_finishing = False
        self._unsynced: set[int] = set()
        self._hash_lock = threading.Lock()
        self._hash = blob_hash(file.etag, file.size)
        self._hashed = 0

    def request(self, offset: int) -> None:
        """A reader waits for the byte at `offset`."""
        self.requested_at = time.monotonic()
        block = offset // BLOCK
        with self._lock:
            if block < self.map.blocks and block not in self._requested:
                self._requested.append(block)

    @property
    def is_fetched(self) -> bool:
        """Whether all bytes have arrived."""
        return all(map(self.map.is_full, range(self.map.blocks)))

    @property
    def is_idle(self) -> bool:
        """Whether no thread fetches a part of the file."""
        return not self._streams

    def take(self) -> Run | None:
        """The next blocks to fetch; None if there are none now. The caller calls `fetch` next."""
        with self._lock:
            if self._streams >= _MAX_STREAMS or time.monotonic() < self.not_before:
                return None
            first = self._next_requested()
            if first is None:
                first = self._next_missing()
            if first is None:
                return None
            run = Run(first, self._end_of_run(first))
            self._claimed.update(range(run.first, run.end))
            self._cursor = run.end
            self._streams += 1
            return run

    def _next_requested(self) -> int | None:
        while self._requested:
            block = self._requested.popleft()
            if self._is_missing(block):
                return block
        return None

    def _next_missing(self) -> int | None:
        for block in chain(range(self._cursor, self.map.blocks), range(self._cursor)):
            if self._is_missing(block):
                return block
        return None

    def _is_missing(self, block: int) -> bool:
        return block not in self._claimed and not self.map.is_full(block)

    def _end_of_run(self, first: int) -> int:
        share = -(-(self.map.blocks - first) // (2 * _MAX_STREAMS))
        most = 1 if self._requested else max(1, min(_MAX_RUN, share))
        end = first + 1
        while (
            end < min(first + most, self.map.blocks)
            and self._is_missing(end)
            and not self.map.count(end)
        ):
            end += 1
        return end

    def fetch(self, run: Run) -> None:
        """Fetch blocks that `take` returned. Raises UpstreamError, CorruptBlobError, OSError, and
        the exceptions of the client."""
        try:
            end = min(run.end * BLOCK, self.file.size)
            position = run.first * BLOCK + self.map.count(run.first)
            while position < end:
                before = position
                for piece in self.reader.stream(position, end):
                    position = self._write(position, piece)
                if position == before:
                    raise UpstreamError(f"Upstream sends no more bytes of {self.file.path}.")
            self._advance_hash()
        finally:
            with self._lock:
                self._claimed.difference_update(range(run.first, run.end))
                self._streams -= 1

    def _write(self, position: int, piece: bytes) -> int:
        view = memoryview(piece)
        for block, part in _by_block(position, view):
            written = 0
            while written < len(part):
                written += os.pwrite(self._descriptor, part[written:], position + written)
            self.map.add(block, len(part))
            position += len(part)
            if self.map.is_full(block):
                self._note_full(block)
        self._received(len(piece))
        self.failures = 0
        return position

    def _note_full(self, block: int) -> None:
        with self._lock:
            self._unsynced.add(block)
            if len(self._unsynced) < _SYNC_EVERY:
                return
            full, self._unsynced = self._unsynced, set()
        os.fdatasync(self._descriptor)
        for one in full:
            self.map.set_synced(one)

    def _advance_hash(self) -> None:
        """Hash what has arrived without a gap, unless another thread does it."""
        while self._hash_lock.acquire(blocking=False):
            try:
                self._hash_prefix()
            finally:
                self._hash_lock.release()
            if not self.map.prefix(self._hashed):
                return

    def _hash_prefix(self) -> None:
        while count := min(_HASH_READ, self.map.prefix(self._hashed)):
            body = os.pread(self._descriptor, count, self._hashed)
            self._hash.update(body)
            self._hashed += len(body)

    def check(self) -> str:
        """The digest of the whole file, which is readable to its end from now on.

        Raises CorruptBlobError if it does not match: then all readers are cut off.
        """
        with self._hash_lock:
            self._hash_prefix()
        found = self._hash.hexdigest()
        if found != self.file.etag:
            self.map.state = FillState.REFUSED
            self.discard()
            raise CorruptBlobError(self.file.path, f"its digest is {found}, not {self.file.etag}")
        self.map.state = FillState.WHOLE
        return found

    def discard(self) -> None:
        """Remove the partial file. Readers that have it open keep what they have."""
        self.paths.map.unlink(missing_ok=True)
        self.paths.content.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._descriptor)


def _by_block(position: int, view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The parts of a piece of the file, by block."""
    start = 0
    while start < len(view):
        block = (position + start) // BLOCK
        count = min(len(view) - start, (block + 1) * BLOCK - position - start)
        yield block, view[start : start + count]
        start += count
