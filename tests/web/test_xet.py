"""Xet's read protocol, followed by a small reader of its own that checks every length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from mirror.digests import Digests
from mirror.repos import RepoType
from mirror.sources.hf_cache import HfCache
from mirror.state import State
from mirror.xet import BLOCK, CHUNK
from mirror.xet_hashes import XetHashes
from tests.conftest import serving
from tests.folders import COMMIT, Content, make_managed, make_record

SIZES = {
    "one.bin": 1, "chunk-1.bin": CHUNK - 1, "chunk.bin": CHUNK, "chunk+1.bin": CHUNK + 1,
    "block-1.bin": BLOCK - 1, "block.bin": BLOCK, "block+1.bin": BLOCK + 1,
    "odd \u00fc#%.bin": 2 * BLOCK + 5 * CHUNK + 1,
}  # fmt: skip
BODIES = {name: os.urandom(size) for name, size in SIZES.items()}


def xet_hash(name: str) -> str:
    """A hash that upstream told."""
    return f"{list(SIZES).index(name):064x}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("xet")
    content = Content({"config.json": b"{}", **BODIES})
    told = {
        path: replace(file, xet_hash=xet_hash(path) if path in SIZES else None)
        for path, file in content.entries.items()
    }
    record = make_record(content, files=told)
    make_managed(folder / "hub", content, files=record.files)
    state = State(folder / "state")
    digests = Digests(state)
    source = HfCache(folder / "hub", digests, managed=True)
    with serving(state, source, xet_hashes=XetHashes(digests)) as client:
        yield client
    digests.close()


def cas(commit: str = COMMIT) -> str:
    return f"/-/cas/{RepoType.MODEL.plural}/Org/Model/{commit}"


def read(client: httpx2.Client, body: dict[str, Any], count: int) -> bytes:
    """The bytes that a v2 reconstruction describes, as hf_xet puts them together."""
    whole = b""
    for term in body["terms"]:
        (fetch,) = body["xorbs"][term["hash"]]
        (part,) = fetch["ranges"]
        first, last = part["bytes"]["start"], part["bytes"]["end"]
        answer = client.get(fetch["url"], headers={"range": f"bytes={first}-{last}"})
        assert answer.status_code == 206
        assert len(answer.content) == last - first + 1
        assert part["chunks"] == term["range"]
        chunks = unpack(answer.content)
        assert len(chunks) == term["range"]["end"] - term["range"]["start"]
        assert sum(map(len, chunks)) == term["unpacked_length"]
        whole += b"".join(chunks)
    start = body["offset_into_first_range"]
    return whole[start : start + count]


def unpack(stored: bytes) -> list[bytes]:
    chunks = []
    while stored:
        length = int.from_bytes(stored[1:4], "little")
        assert (stored[0], stored[4]) == (0, 0)
        assert int.from_bytes(stored[5:8], "little") == length
        chunks.append(stored[8 : 8 + length])
        assert len(chunks[-1]) == length
        stored = stored[8 + length :]
    return chunks


@pytest.mark.parametrize("name", SIZES)
def test_a_whole_file(client: httpx2.Client, name: str) -> None:
    answer = client.get(f"{cas()}/v2/reconstructions/{xet_hash(name)}")
    assert read(client, answer.json(), SIZES[name]) == BODIES[name]
