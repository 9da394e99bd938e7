"""Range headers, against a model that counts positions one by one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.web.file_response import Span, parse_range

NUMBERS = st.one_of(st.none(), st.integers(0, 30))


def _model(first: int | None, last: int | None, size: int) -> list[int] | None:
    """The positions that RFC 9110 means: none at all is a 416, None the whole file."""
    positions = list(range(size))
    if size == 0 or (first is None and last is None):
        return None
    if first is None:
        return positions[-(last or 0) :] if last else []
    if last is None:
        return positions[first:]
    return positions[first : last + 1] if first <= last else None


def _parsed(header: str, size: int) -> list[int] | None:
    try:
        span = parse_range(header, size)
    except ValueError:
        return []
    return None if span is None else list(range(span.offset, span.offset + span.count))


@given(NUMBERS, NUMBERS, st.integers(0, 20))
@example(0, 0, 0)
@example(None, 0, 5)
@example(None, 9, 5)
@example(4, 5, 5)
def test_a_range_is_what_the_model_says(first: int | None, last: int | None, size: int) -> None:
    written = ["" if one is None else str(one) for one in (first, last)]
    assert _parsed(f"bytes={written[0]}-{written[1]}", size) == _model(first, last, size)


@given(st.text("0123456789-, =+x\xb2\xff", max_size=20), st.integers(0, 20))
def test_a_range_lies_inside_the_file_whatever_the_header(header: str, size: int) -> None:
    positions = _parsed(f"bytes={header}", size)
    assert positions is None or set(positions) <= set(range(size))


@pytest.mark.parametrize(
    "header",
    ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "bytes 0-1",
     "bytes=--1", "bytes=+1-2", "bytes=0x1-2", "bytes=1-2-3"],
)  # fmt: skip
def test_other_headers_mean_the_whole_file(header: str) -> None:
    assert parse_range(header, 10) is None


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-10", Span(0, 10)),
        ("bytes= 2-3 ", Span(2, 2)),
        ("Bytes=2-3", Span(2, 2)),
        ("bytes=2-" + "9" * 5000, Span(2, 8)),
        ("bytes=-" + "9" * 5000, Span(0, 10)),
    ],
    ids=["one-too-many", "spaces", "unit-in-capitals", "huge-end", "huge-suffix"],
)
def test_a_range_is_taken_as_it_is_meant(header: str, span: Span) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_past_the_end_is_no_range(header: str) -> None:
    with pytest.raises(ValueError, match=r"past the end|empty"):
        parse_range(header, 10)
