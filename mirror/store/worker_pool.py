"""Thread pools for commands that Ctrl-C must end at any moment."""

from __future__ import annotations

import contextlib
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_POLL_INTERVAL_S = 0.1
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A thread pool. At the normal end its threads are joined; after an exception they are not,
    since the process then exits."""
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
    """The results in the order of `items`. Raises the exception of the first item that fails.

    This polls: Python raises KeyboardInterrupt only in the main thread, and a signal that another
    thread received does not wake the main thread from a lock.
    """
    futures = [pool.submit(work, item) for item in items]
    while True:
        done, pending = wait(futures, _POLL_INTERVAL_S, FIRST_EXCEPTION)
        if not pending or any(future.exception() for future in done):
            return [future.result() for future in (done if pending else futures)]
