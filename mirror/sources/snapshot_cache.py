"""A cache of the snapshots that were read from disk a short time ago.

The folders on disk are the only database, and the server gets no notice when they change. So a
snapshot is cached only for a short time: a second, or longer if reading it took long. The cache
holds a limited number of files, for any number of repositories.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from mirror.core.source import Snapshot

TTL_S = 1.0
_COST_FACTOR = 20
_LONGEST = 10.0
_MAX_FILES = 50_000


def hold_s(ttl_s: float, cost: float) -> float:
    """The number of seconds for which a result is cached that took `cost` seconds to read."""
    return max(ttl_s, min(_LONGEST, _COST_FACTOR * cost)) if ttl_s else 0.0


class SnapshotCache:
    """Snapshots by key. A snapshot that is older than `hold_s` seconds is read again."""

    def __init__(self, ttl_s: float = TTL_S) -> None:
        self._ttl_s = ttl_s
        self._kept: OrderedDict[Hashable, tuple[float, Snapshot]] = OrderedDict()
        self._files = 0
        self._lock = threading.Lock()
        self._turns: dict[Hashable, tuple[threading.Lock, int]] = {}

    def get(self, key: Hashable, read: Callable[[], Snapshot]) -> Snapshot:
        """The snapshot of a key, from memory or from `read`. Errors of `read` are not cached.

        Concurrent callers with the same key wait for one call of `read`.
        """
        if found := self._fresh(key):
            return found
        with self._turn(key):
            found = self._fresh(key)
            if found is None:
                started = time.monotonic()
                found = read()
                self._put(key, time.monotonic() - started, found)
            return found

    def _fresh(self, key: Hashable) -> Snapshot | None:
        kept = self._kept.get(key)
        return kept[1] if kept is not None and time.monotonic() < kept[0] else None

    @contextlib.contextmanager
    def _turn(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of this key."""
        with self._lock:
            turn, waiting = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = (turn, waiting + 1)
        try:
            with turn:
                yield
        finally:
            with self._lock:
                waiting = self._turns[key][1] - 1
                if waiting:
                    self._turns[key] = (turn, waiting)
                else:
                    del self._turns[key]

    def _put(self, key: Hashable, cost: float, snapshot: Snapshot) -> None:
        if not self._ttl_s:
            return
        ttl_s = hold_s(self._ttl_s, cost)
        with self._lock:
            self._drop(key)
            self._kept[key] = (time.monotonic() + ttl_s, snapshot)
            self._files += len(snapshot.files)
            while self._files > _MAX_FILES and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: Hashable) -> None:
        if key in self._kept:
            self._files -= len(self._kept.pop(key)[1].files)
