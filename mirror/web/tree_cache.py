"""A cache of the trees of snapshots.

Many hosts list the same commit at once, page by page. One request builds the tree for all of them,
and the tree is cached for a short time while its snapshot is the same.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from mirror.core.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirror.core.source import Snapshot
    from mirror.core.tree import RepoFile

_MAX_FILES = 200_000


class TreeCache:
    """Trees by the identity of their snapshots, with a limit on the number of files. A tree is
    cached for `hold_s` seconds; a new tree contains the xet hashes that were computed meanwhile."""

    def __init__(self, hold_s: float = 5.0) -> None:
        self._hold_s = hold_s
        self._kept: OrderedDict[int, tuple[float, Snapshot, Tree]] = OrderedDict()
        self._lock = threading.Lock()
        self._turns: dict[int, threading.Lock] = {}

    def get(self, snapshot: Snapshot, files: Callable[[], Mapping[str, RepoFile]]) -> Tree:
        """The tree of a snapshot. `files` returns its entries as clients see them."""
        key = id(snapshot)
        if found := self._fresh(key, snapshot):
            return found
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        try:
            with turn:
                found = self._fresh(key, snapshot)
                if found is None:
                    found = Tree(files())
                    self._keep(key, snapshot, found)
                return found
        finally:
            with self._lock:
                if not turn.locked():
                    self._turns.pop(key, None)

    def _fresh(self, key: int, snapshot: Snapshot) -> Tree | None:
        kept = self._kept.get(key)
        is_fresh = kept is not None and kept[1] is snapshot and time.monotonic() < kept[0]
        return kept[2] if kept is not None and is_fresh else None

    def _keep(self, key: int, snapshot: Snapshot, tree: Tree) -> None:
        now = time.monotonic()
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = (now + self._hold_s, snapshot, tree)
            files = sum(len(one.files) for _, _, one in self._kept.values())
            for other in list(self._kept):
                until, _, old = self._kept[other]
                if other == key or (until > now and files <= _MAX_FILES):
                    break
                files -= len(old.files)
                del self._kept[other]
