"""Bounds the log: identical warnings are counted, and reported once a minute."""

from __future__ import annotations

import copy
import logging
import threading

_INTERVAL_S = 60.0
_MAX_TEXTS = 50


class RepeatedWarnings(logging.Filter):
    """Passes the first warning of each text, and counts the others of the next minute.

    The count is reported when the minute ends. Warnings that differ only in their arguments, for
    example in the address of a client, are identical. Errors, which no client causes, all pass.
    """

    def __init__(self, handler: logging.Handler, interval_s: float = _INTERVAL_S) -> None:
        super().__init__()
        self._handler = handler
        self._interval_s = interval_s
        self._counts: dict[str, int] = {}
        self._last: dict[str, logging.LogRecord] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        with self._lock:
            text = self._key(record)
            is_first = text not in self._counts
            self._counts[text] = self._counts.get(text, -1) + 1
            self._last[text] = record
        if is_first:
            timer = threading.Timer(self._interval_s, self._report, [text])
            timer.daemon = True
            timer.start()
        return is_first

    def _key(self, record: logging.LogRecord) -> str:
        """The text that identical warnings share: without the arguments, unless the record says
        that they matter (`extra={"is_distinct": True}`), and there are not too many texts."""
        is_distinct = getattr(record, "is_distinct", False) and len(self._counts) < _MAX_TEXTS
        return record.getMessage() if is_distinct else str(record.msg)

    def _report(self, text: str) -> None:
        with self._lock:
            count, record = self._counts.pop(text), self._last.pop(text)
        if count:
            last = copy.copy(record)
            last.msg = f"{record.getMessage()} (the last of {count} more within a minute)"
            last.args = None
            self._handler.emit(last)
