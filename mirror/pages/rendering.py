"""Renders texts of strangers in a process of their own, and keeps the results by blob."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from mirror.derived.state import State

MAX_TEXT = 512 * 1024
"""The longest text that is rendered, in bytes; the rest of a longer text is left out."""

_FORMAT = 1
_TIMEOUT_S = 20.0
_AT_ONCE = 2
_MAX_OUTPUT = 8 * 1024 * 1024


class Renderer:
    """Renders cards and source files. The results are kept in the state folder."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._turns = threading.BoundedSemaphore(_AT_ONCE)

    def card(self, etag: str, text: bytes) -> list[Any] | None:
        """The segments of a card (`mirror/pages/card.py`); None if it cannot be rendered."""
        return self._kept("card", "", etag, text)

    def code(self, etag: str, name: str, text: bytes) -> str | None:
        """The HTML of a source file; None if it cannot be rendered."""
        segments = self._kept("code", name, etag, text)
        return "".join(segments) if segments and all(type(one) is str for one in segments) else None

    def _kept(self, kind: str, name: str, etag: str, text: bytes) -> list[Any] | None:
        key = f"{_FORMAT} {name.rpartition('.')[2]} {etag}"
        kept = self._state.get(f"pages/{kind}", key)
        if isinstance(kept, dict) and isinstance(kept.get("segments"), list):
            return kept["segments"] or None
        with self._turns:
            segments, is_final = _run(kind, name, text[:MAX_TEXT])
        if is_final:
            self._state.put(f"pages/{kind}", key, {"segments": segments})
        return segments or None


def _run(kind: str, name: str, text: bytes) -> tuple[list[Any], bool]:
    """The segments, empty if the text cannot be rendered, and whether another try is useless."""
    if not text.strip():
        return [""], True
    command = [sys.executable, "-P", "-m", "mirror.pages.render_worker", kind, name]
    try:
        done = subprocess.run(  # noqa: S603
            command, input=text, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return [], False
    if done.returncode or len(done.stdout) > _MAX_OUTPUT:
        return [], True
    segments = orjson.loads(done.stdout)
    return (segments, True) if isinstance(segments, list) else ([], True)
