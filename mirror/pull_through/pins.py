"""Repositories that are never removed to make room: those of `hubmirror pin`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mirror.core.files import read_regular
from mirror.core.repo import Repo
from mirror.derived.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FILE = "pins"
_MAX_FILE = 4 * 1024 * 1024


def read_pins(work_dir: Path) -> list[Repo]:
    """The pinned repositories of a managed cache, in order. Lines that are not a repo id are
    ignored."""
    try:
        lines = read_regular(work_dir / _FILE, _MAX_FILE).decode().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(Repo.parse(line.strip()))
    return found


def write_pins(work_dir: Path, repos: Iterable[Repo]) -> None:
    """Raises OSError."""
    work_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(work_dir / _FILE, "".join(f"{repo}\n" for repo in sorted(repos)).encode())
