"""Bytes, for people to read."""

from __future__ import annotations


def human(size: float) -> str:
    """`0 B`, `25.5 kB`, `594.0 GB`: in powers of a thousand, as disks and the hub count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
