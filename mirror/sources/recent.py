"""A memory of what was just read from disk.

The directory is the database, and nothing tells us when it changes; so what was read is trusted
for a moment only: a second, or longer where reading it took long. It holds a bounded number of
files, however many repositories a folder has.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from mirror.source import Snapshot

HOLD = 1.0
_COST_FACTOR = 20
_LONGEST = 10.0
_MOST_FILES = 50_000


class RecentSnapshots:
    """Snapshots by key, each read again when it is older than `hold` seconds."""

    def __init__(self, hold: float = HOLD) -> None:
        self._hold = hold
        self._kept: OrderedDict[Hashable, tuple[float, Snapshot]] = OrderedDict()
        self._files = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], Snapshot]) -> Snapshot:
        """The snapshot under the key, from memory or by `read`, whose errors are not kept."""
        kept = self._kept.get(key)
        started = time.monotonic()
        if kept is not None and started < kept[0]:
            return kept[1]
        snapshot = read()
        if self._hold:
            done = time.monotonic()
            hold = min(_LONGEST, _COST_FACTOR * (done - started))
            self._put(key, done + max(self._hold, hold), snapshot)
        return snapshot

    def _put(self, key: Hashable, until: float, snapshot: Snapshot) -> None:
        with self._lock:
            self._drop(key)
            self._kept[key] = (until, snapshot)
            self._files += len(snapshot.files)
            while self._files > _MOST_FILES and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: Hashable) -> None:
        if key in self._kept:
            self._files -= len(self._kept.pop(key)[1].files)
