"""Whether the disk of a folder is away.

If a disk is unmounted, its empty mount point stays. A server that believes it would say of each
repository that it does not exist.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirror.core.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Presence:
    """What is known about a folder and its content.

    A folder that had content is away if it is missing or empty, or if it is on another device and
    has no content. A folder that is empty from the start is not away.
    """

    def __init__(self, root: Path, name: str, has_content: Callable[[], bool]) -> None:
        """`name` is the name of the folder in messages to clients. `has_content` may raise
        OSError."""
        self._root = root
        self._name = name
        self._has_content = has_content
        self._had_content = False
        self._device: int | None = None

    def expect(self, device: int | None) -> None:
        """Set the device that the folder was on before, when another process looked."""
        self._device = device

    def note_content(self) -> None:
        """Remember that the folder has content now."""
        if not self._had_content:
            self._device, _ = self._look()
            self._had_content = self._device is not None

    def check(self) -> None:
        """Raises UnavailableError if the folder is away."""
        device, is_empty = self._look()
        is_moved = self._device is not None and device != self._device
        if self._had_content and is_empty:
            raise UnavailableError(self._text("missing" if device is None else "empty"))
        if not is_moved:
            return
        try:
            has_content = not is_empty and self._has_content()
        except OSError:
            has_content = False
        if not has_content:
            raise UnavailableError(self._text("on another device, and empty"))
        self._device = device

    def _look(self) -> tuple[int | None, bool]:
        """The device of the folder, None if it is missing; and whether it is empty."""
        try:
            device = os.stat(self._root).st_dev
            with os.scandir(self._root) as names:
                return device, next(names, None) is None
        except OSError:
            return None, True

    def _text(self, state: str) -> str:
        return (
            f"{self._name} cannot be read: its folder is {state}. Ask the mirror's operator "
            "whether its disk is mounted."
        )


def device_of(folder: Path) -> int | None:
    """The device of a folder; None if it cannot be read."""
    try:
        return os.stat(folder).st_dev
    except OSError:
        return None
