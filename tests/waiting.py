"""Waits for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(is_true: Callable[[], bool], seconds: float = 30, interval: float = 0.01) -> None:
    """Ask again and again, and fail if it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not true after {seconds:g} s"
        time.sleep(interval)
