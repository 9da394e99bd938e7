"""Virtual xorbs, against a model that builds them whole, chunk by chunk."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.web.xorb import BLOCK, CHUNK, HEAD, Term, Xorb, terms

STORED = HEAD + CHUNK
EDGES = (
    1, CHUNK - 1, CHUNK, CHUNK + 1, BLOCK - CHUNK + 1, BLOCK - 1, BLOCK, BLOCK + 1,
    BLOCK + CHUNK + 1, 2 * BLOCK + 5 * CHUNK + 7,
)  # fmt: skip
# A period that no chunk is a multiple of: a byte from another place is seen.
BYTES = Random(0).randbytes(1_000_003) * (EDGES[-1] // 1_000_003 + 1)


def near(step: int) -> st.SearchStrategy[int]:
    """Numbers around the multiples of a step."""
    multiples, around = st.integers(0, 9), st.integers(-2, HEAD + 2)
    return st.builds(lambda multiple, more: max(0, multiple * step + more), multiples, around)


SIZES = st.one_of(
    st.sampled_from(EDGES), near(CHUNK).filter(bool), near(BLOCK).filter(bool),
    st.integers(1, 4 * BLOCK),
)  # fmt: skip


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int, int]:
    """A size, and the first and the last byte of a range inside it."""
    size = draw(SIZES)
    places = st.one_of(near(CHUNK), near(BLOCK), st.integers(0, size - 1), st.just(size - 1))
    first, last = sorted(min(size - 1, draw(places)) for _ in range(2))
    return size, first, last


def chunk_lengths(size: int, block: int) -> list[int]:
    length = min(BLOCK, size - block * BLOCK)
    return [min(CHUNK, length - start) for start in range(0, length, CHUNK)]


def build(block: bytes) -> bytes:
    """A xorb as the specification puts it together, from a block of a file."""
    xorb = bytearray()
    for start in range(0, len(block), CHUNK):
        chunk = block[start : start + CHUNK]
        length = len(chunk).to_bytes(3, "little")
        xorb += b"\0" + length + b"\0" + length + chunk
    return bytes(xorb)


@lru_cache(4)
def built(size: int, block: int) -> bytes:
    """A block of a file of the first `size` BYTES."""
    return build(BYTES[block * BLOCK : min(size, (block + 1) * BLOCK)])


def cut(xorb: Xorb, offset: int, count: int) -> bytes:
    """The bytes that a cut describes."""
    position, parts = xorb.cut(offset, count)
    found = bytearray()
    for head, length in parts:
        found += head + BYTES[position : position + length]
        position += length
    return bytes(found)


def chunks_of(term: Term) -> list[tuple[int, int]]:
    return [(term.block, chunk) for chunk in range(term.start, term.end)]


@settings(deadline=None)
@given(spans())
@example((1, 0, 0))
@example((BLOCK + 1, BLOCK - 1, BLOCK))
def test_terms_are_the_chunks_that_hold_the_range(span: tuple[int, int, int]) -> None:
    size, first, last = span
    wanted = [divmod(n, BLOCK // CHUNK) for n in range(first // CHUNK, last // CHUNK + 1)]
    assert [chunk for term in terms(size, first, last) for chunk in chunks_of(term)] == wanted


@settings(deadline=None)
@given(spans())
def test_a_term_is_all_that_is_wanted_of_its_block(span: tuple[int, int, int]) -> None:
    found = list(terms(*span))
    assert all(term.start < term.end for term in found)
    assert all(one.block + 1 == other.block for one, other in pairwise(found))


@settings(deadline=None)
@given(spans())
def test_a_term_has_the_length_and_the_place_of_its_chunks(span: tuple[int, int, int]) -> None:
    for term in terms(*span):
        lengths = chunk_lengths(span[0], term.block)
        stored = [HEAD + length for length in lengths]
        assert term.unpacked_length == sum(lengths[term.start : term.end])
        assert term.bytes_start == sum(stored[: term.start])
        assert term.bytes_end == sum(stored[: term.end]) - 1


@settings(deadline=None)
@given(spans())
def test_terms_hold_little_more_than_the_range(span: tuple[int, int, int]) -> None:
    size, first, last = span
    length = sum(term.unpacked_length for term in terms(size, first, last))
    assert last < first // CHUNK * CHUNK + length <= min(size, last + CHUNK)


def test_a_file_of_terabytes_has_terms() -> None:
    size = 5 * 10**12 + 1
    (term,) = terms(size, size - 1, size - 1)
    assert (term.block, term.end - term.start) == ((size - 1) // BLOCK, 1)


def test_an_empty_file_has_no_terms() -> None:
    assert list(terms(0, 0, -1)) == []


@pytest.mark.parametrize("size", EDGES)
def test_xorbs_are_as_long_as_they_are_built(size: int) -> None:
    blocks = range(-(-size // BLOCK))
    assert [Xorb(size, block).stored_size for block in blocks] == [
        len(built(size, block)) for block in blocks
    ]


@pytest.mark.parametrize("size", EDGES)
def test_a_whole_xorb(size: int) -> None:
    for block in range(-(-size // BLOCK)):
        xorb = Xorb(size, block)
        assert cut(xorb, 0, xorb.stored_size) == built(size, block)


@settings(deadline=None)
@given(st.sampled_from(EDGES), st.data())
def test_a_cut_is_a_slice_of_the_xorb(size: int, data: st.DataObject) -> None:
    block = data.draw(st.integers(0, (size - 1) // BLOCK), "block")
    whole = built(size, block)
    places = st.one_of(near(STORED), st.integers(0, len(whole)), st.just(len(whole)))
    start, end = sorted(min(len(whole), data.draw(places)) for _ in range(2))
    assert cut(Xorb(size, block), start, end - start) == whole[start:end]


@settings(deadline=None)
@given(SIZES, near(STORED), st.integers(1, 3 * STORED))
def test_a_cut_has_no_empty_part_and_lies_in_its_block(size: int, start: int, count: int) -> None:
    block = (size - 1) // BLOCK
    xorb = Xorb(size, block)
    start = min(start, xorb.stored_size - 1)
    count = min(count, xorb.stored_size - start)
    position, parts = xorb.cut(start, count)
    assert all(head or length for head, length in parts)
    assert sum(len(head) + length for head, length in parts) == count
    assert block * BLOCK <= position
    assert position + sum(length for _, length in parts) <= size


@pytest.mark.parametrize(
    ("size", "block"), [(0, 0), (1, 1), (1, -1), (BLOCK, 1), (BLOCK + 1, 2), (1, 10**9)]
)
def test_a_block_past_the_end_is_none(size: int, block: int) -> None:
    with pytest.raises(ValueError, match="past the end"):
        Xorb(size, block)


def test_xorbs_of_different_blocks_and_files_have_different_names() -> None:
    names = {Term(block, 0, 1, 1).xorb_hash(64 * digit) for block in range(3) for digit in "ab"}
    assert len(names) == 6
    assert {len(bytes.fromhex(name)) for name in names} == {32}


def test_parts_of_a_block_are_of_one_xorb() -> None:
    assert Term(1, 0, 1, 1).xorb_hash("a") == Term(1, 4, 9, CHUNK).xorb_hash("a")
