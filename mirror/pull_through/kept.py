"""Answers that are kept for a time, and computed once for all who ask at the same time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_Answer = TypeVar("_Answer")

_MAX_KEPT = 20_000


class Kept(Generic[_Answer]):
    """Answers by key. Threads of a pool compute them; `max_threads` bounds how many at once."""

    def __init__(self, name: str, max_threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_threads, name)
        self._running: dict[Hashable, Future[tuple[_Answer, float]]] = {}
        self._kept: OrderedDict[Hashable, tuple[float, _Answer]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> _Answer | None:
        """The answer that is kept; None if there is none, or it is too old."""
        with self._lock:
            until, answer = self._kept.get(key, (0.0, None))
            return answer if time.monotonic() < until else None

    def remaining_s(self, key: Hashable) -> float:
        """For how many more seconds the answer is kept."""
        with self._lock:
            return max(0.0, self._kept.get(key, (0.0, None))[0] - time.monotonic())

    def start(
        self, key: Hashable, compute: Callable[[], tuple[_Answer, float]]
    ) -> Future[tuple[_Answer, float]]:
        """Compute an answer in a thread, unless a thread does so already. `compute` returns the
        answer, and for how many seconds it is kept; what it raises is not kept."""
        with self._lock:
            future = self._running.get(key)
            if future is None:
                future = self._running[key] = self._pool.submit(self._compute, key, compute)
            return future

    def forget(self, key: Hashable) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compute(
        self, key: Hashable, compute: Callable[[], tuple[_Answer, float]]
    ) -> tuple[_Answer, float]:
        try:
            answer, keep_s = compute()
            with self._lock:
                self._kept.pop(key, None)
                self._kept[key] = (time.monotonic() + keep_s, answer)
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
            return answer, keep_s
        finally:
            with self._lock:
                self._running.pop(key, None)
