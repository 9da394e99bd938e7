"""Sizes and counts as text."""

from __future__ import annotations


def human(size: float) -> str:
    """A size as text: `0 B`, `25.5 kB`, `594.0 GB`. The units are powers of 1000, as on the hub."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def several(count: int, noun: str) -> str:
    """A count with its noun: `1 file`, `2 files`, `3 repositories`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"
