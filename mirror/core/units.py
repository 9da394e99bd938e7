"""Sizes, durations and counts as text."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))? ?([kKMGT]?)B?")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


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


def parse_size(text: str) -> int:
    """A size in bytes: `500`, `25.5 kB`, `50G`, `2T`. Raises ValueError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:50]!r} is not a size. Write for example 500M, 50G or 2T.")
    whole, fraction, unit = found.groups()
    thousandths = int(whole) * 1000 + int((fraction or "").ljust(3, "0"))
    return thousandths * _UNITS[unit] // 1000


def duration(seconds: float) -> str:
    """A duration as text: `45 s`, `9 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
