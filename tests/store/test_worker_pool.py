"""Worker pool: the order of results, failures, and interrupts."""

from __future__ import annotations

import threading
import time

import pytest

from mirror.store.worker_pool import results, threads


def test_results_are_in_the_order_of_the_items() -> None:
    with threads(4, "test") as pool:
        assert results(pool, lambda n: n * n, range(100)) == [n * n for n in range(100)]
        assert results(pool, abs, []) == []


def test_a_failure_is_raised_at_once() -> None:
    stop = threading.Event()

    def work(number: int) -> None:
        if number:
            raise ValueError(number)
        stop.wait(20)

    began = time.monotonic()
    with threads(2, "test") as pool:
        with pytest.raises(ValueError, match="1"):
            results(pool, work, [0, 1])
        assert time.monotonic() - began < 10
        stop.set()
