"""Waits for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(ask: Callable[[], T | None], seconds: float = 30, interval: float = 0.01) -> T:
    """Ask until the answer is true, and return it. Fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not true after {seconds:g} s"
        time.sleep(interval)
    return answer
