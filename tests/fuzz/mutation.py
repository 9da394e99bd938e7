"""Valid bytes and structures, made wrong at random from a seed; and how much of it there is."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from typing import Any

# Taken out of the environment, since the command refuses variables that it does not know.
FACTOR = float(os.environ.pop("HUBMIRROR_FUZZ", "1"))
"""How many times the usual number of cases is tried: 1 in `make test`, more in `make fuzz`."""


def count(usual: int) -> int:
    return max(1, round(usual * FACTOR))


def _nested(depth: int, inner: Any, *, as_dict: bool) -> Any:
    for _ in range(depth):
        inner = {"a": inner} if as_dict else [inner]
    return inner


ODD_STRINGS = (
    "", " ", ".", "..", "/", "//", "../../x", "/etc/passwd", "a/../b", "a//b", "a\\b", "a\0b", "\n",
    "a\r\nb: c", "refs/heads/../../x", "refs/heads//abs/path", "refs/", "refs/heads/", "-", "--",
    "main.lock", "\u00e9", "\ud800", "\u202e", "\U0001f600", "%00", "%2e%2e", "~", "$HOME", "{}",
    "0", "-1", "1e9", "NaN", "null", "true", "x" * 300, "x" * 70_000, "a/" * 1400 + "b", 40 * "a",
    64 * "a", 40 * "A", 64 * "\u0661", "2026-01-01", "9999-12-31T23:59:59+23:59",
    "0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00+99:99", "9" * 5000,
)  # fmt: skip
_ODD: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1, lambda: 1, lambda: 1.5,
    lambda: 1e308, lambda: 2**31, lambda: 2**63 - 1, lambda: 2**63, lambda: 2**64, lambda: 10**30,
    lambda: -(2**63), lambda: [], lambda: {}, lambda: [None], lambda: {"": None}, lambda: [[]],
    lambda: _nested(100, 1, as_dict=False), lambda: _nested(400, 1, as_dict=False),
    lambda: _nested(300, 1, as_dict=True), lambda: ["x"] * 1000,
)  # fmt: skip


def odd(chosen: random.Random) -> Any:
    """A value that a field seldom has."""
    if chosen.random() < 0.5:
        return chosen.choice(ODD_STRINGS)
    return chosen.choice(_ODD)()


def _places(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Every container in a structure, with each of its keys."""
    found = [] if found is None else found
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            _places(value[key], found)
    return found


def mutate(chosen: random.Random, value: Any, times: int | None = None) -> Any:
    """A structure like `value`, a dict or a list, that differs in one place or in a few."""
    value = copy.deepcopy(value)
    for _ in range(times or chosen.choice((1, 1, 1, 2, 5))):
        before = copy.deepcopy(value)
        places = _places(value)
        if not places:
            break
        container, key = chosen.choice(places)
        _change(chosen, container, key, places)
        if not _can_be_written(value):
            return before
    return value


def _can_be_written(value: Any) -> bool:
    """Whether it is neither too long nor too deep for JSON, and for another change."""
    try:
        return len(json.dumps(value)) < 4_000_000 and bool(_places([value]))
    except RecursionError:
        return False


def _change(chosen: random.Random, container: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    kind = chosen.randrange(6)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[chosen.choice(ODD_STRINGS)] = container.pop(key)
    elif kind == 2:
        other, place = chosen.choice(places)
        if isinstance(other, dict) and place in other:
            container[key] = copy.deepcopy(other[place])
    elif kind == 3 and isinstance(container[key], str):
        container[key] = _mutate_text(chosen, container[key])
    elif kind == 4 and isinstance(container[key], int | float):
        container[key] = chosen.choice(
            (-container[key], container[key] + 1, str(container[key]), container[key] * 10**12)
        )
    else:
        container[key] = odd(chosen)


def _mutate_text(chosen: random.Random, text: str) -> str:
    at = chosen.randint(0, len(text))
    return chosen.choice((
        text[:at], text[at:], text + text, text[:at] + chosen.choice(ODD_STRINGS) + text[at:],
        text.upper(), text.swapcase(), text[::-1], f" {text}", f"{text}\n",
    ))  # fmt: skip


def mutate_bytes(chosen: random.Random, body: bytes, parts: tuple[bytes, ...] = ()) -> bytes:
    """Bytes like `body`: cut, changed, repeated, or with one of `parts` in them."""
    made = bytearray(body)
    for _ in range(chosen.choice((1, 1, 2, 3, 8))):
        at, end = sorted((chosen.randint(0, len(made)), chosen.randint(0, len(made))))
        kind = chosen.randrange(7)
        if kind == 0:
            del made[at : min(end, at + 20)]
        elif kind == 1:
            made[at:at] = chosen.randbytes(chosen.choice((1, 4, 8)))
        elif kind == 2 and made:
            made[at % len(made)] ^= 1 << chosen.randrange(8)
        elif kind == 3:
            made[at:at] = made[at : min(end, at + 200)]
        elif kind == 4 and len(made) > 8:
            value = chosen.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(made)))
            made[at : at + 8] = value.to_bytes(8, "little")
        elif kind == 5 and parts:
            made[at:at] = chosen.choice(parts)
        else:
            del made[end if chosen.random() < 0.3 else len(made) :]
    return bytes(made)
