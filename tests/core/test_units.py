"""Sizes as text."""

from __future__ import annotations

import pytest

from mirror.core.units import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("500", 500),
        ("25.5 kB", 25_500),
        ("50G", 50_000_000_000),
        ("2T", 2_000_000_000_000),
        ("1.25MB", 1_250_000),
    ],
)
def test_a_size_is_parsed(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1e9", "5 PB", "1,5G", "1GiB", "\u0661G", "9" * 16])
def test_a_text_that_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
