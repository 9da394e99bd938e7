"""Limits how often a client may try to sign in."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

_TRIES = 5
_TRIES_OF_ALL = 50
_PERIOD_S = 60.0
_MAX_CLIENTS = 10_000


class TryLimit:
    """Counts the tries of each client in the last minute, in this process."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def allow(self, client: str) -> bool:
        """Whether the client may try now; counts the try."""
        with self._lock:
            return self._count("", _TRIES_OF_ALL) and self._count(client, _TRIES)

    def _count(self, name: str, most: int) -> bool:
        now = time.monotonic()
        recent = [at for at in self._tries.get(name, ()) if now - at < _PERIOD_S]
        is_allowed = len(recent) < most
        self._tries[name] = [*recent, now] if is_allowed else recent
        self._tries.move_to_end(name)
        if len(self._tries) > _MAX_CLIENTS:
            self._tries.popitem(last=False)
        return is_allowed
