"""Handles SIGHUP, which asks for new workers. The system sends it too if a terminal is closed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class HangUp:
    """Calls `stop` if the terminal of this process was closed, unless `nohup` started it; for any
    other SIGHUP, calls `reload`."""

    def __init__(self, reload: Callable[[], None], stop: Callable[[], None]) -> None:
        self._reload = reload
        self._stop = stop
        self._has_terminal = _has_terminal()
        self._is_nohup = signal.signal(signal.SIGHUP, self._handle) is signal.SIG_IGN

    def _handle(self, *_: Any) -> None:
        if not self._has_terminal or _has_terminal():
            self._reload()
            return
        self._has_terminal = False
        if not self._is_nohup:
            self._stop()


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal that is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
