"""The switch between proxy and offline: a file that `hubmirror mode` writes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from mirror.core.files import read_regular
from mirror.derived.state import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "mode"
_MAX_FILE = 100


class Mode(StrEnum):
    """PROXY: fetch from upstream what is missing. OFFLINE: ask nobody."""

    PROXY = "proxy"
    OFFLINE = "offline"


def read_mode(work_dir: Path) -> Mode:
    """The mode of a managed cache; PROXY if none was set."""
    try:
        return Mode(read_regular(work_dir / _FILE, _MAX_FILE).decode().strip())
    except (OSError, ValueError):
        return Mode.PROXY


def write_mode(work_dir: Path, mode: Mode) -> None:
    """Raises OSError."""
    work_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(work_dir / _FILE, f"{mode}\n".encode())


def is_offline(work_dir: Path) -> bool:
    return read_mode(work_dir) is Mode.OFFLINE
