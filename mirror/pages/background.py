"""Values that take long to find out: they are found in a thread, and the last one is given."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from mirror.core.errors import PendingError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("hubmirror")

_COST_FACTOR = 20
_LONGEST_S = 600.0
_Value = TypeVar("_Value")


class Background(Generic[_Value]):
    """A value from `find`, which is called in a thread when the value is asked for and is older
    than `hold_s` seconds, or than twenty times the duration of the call, but at most ten
    minutes."""

    def __init__(self, name: str, hold_s: float, find: Callable[[], _Value]) -> None:
        self._name = name
        self._hold_s = hold_s
        self._find = find
        self._value: _Value | None = None
        self._due = 0.0
        self._known = threading.Event()
        self._finding = threading.Lock()

    def get(self, wait_s: float = 0.0) -> _Value | None:
        """The last value; None before the first. Waits at most `wait_s` seconds for the first."""
        if time.monotonic() >= self._due and self._finding.acquire(blocking=False):
            threading.Thread(target=self._renew, name=self._name, daemon=True).start()
        self._known.wait(wait_s)
        return self._value

    def _renew(self) -> None:
        started, hold_s = time.monotonic(), self._hold_s
        try:
            self._value = self._find()
            self._known.set()
        except PendingError:  # another thread still looks at the repositories
            hold_s = 0.0
        except Exception:
            log.exception("The %s could not be found out.", self._name)
            self._known.set()
        finally:
            cost = time.monotonic() - started
            self._due = time.monotonic() + min(max(hold_s, _COST_FACTOR * cost), _LONGEST_S)
            self._finding.release()
