"""Threads at work for a command that an interrupt can end at any moment."""

from __future__ import annotations

import contextlib
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_POLL_INTERVAL_S = 0.1  # seconds
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that are waited for, unless something ends the run: then the process is to end."""
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def results(
    pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item]
) -> list[_Result]:
    """As `pool.map` gives them, or what the first that fails raises.

    The main thread must look up now and then: Python raises KeyboardInterrupt in it alone, and a
    signal that another thread got does not wake it from a lock.
    """
    futures = [pool.submit(work, item) for item in items]
    while True:
        done, left = wait(futures, _POLL_INTERVAL_S, FIRST_EXCEPTION)
        if not left or any(one.exception() for one in done):
            return [one.result() for one in (futures if not left else done)]
