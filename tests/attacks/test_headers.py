"""Headers of weight files that are made to be slow."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from mirror.derived.state import State
from mirror.derived.weight_headers import HeaderError, gguf_facts, safetensors_parameters
from mirror.sources.folder import Folder
from tests.conftest import Serve
from tests.folders import write


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def tensor(shape: str) -> bytes:
    return safetensors(b'{"a": {"dtype": "F32", "shape": %s}}' % shape.encode())


SLOW = {
    "a string times a number": tensor('["a", 2000000000]'),
    "a list times a number": tensor('[["a"], 2000000000]'),
    "many dimensions": tensor(f"[{','.join(200_000 * ['9223372036854775807'])}]"),
    "a rank of 17": tensor("[1" + 16 * ", 1" + "]"),
    "a truth value": tensor("[true]"),
    "a fraction": tensor("[1.5]"),
    "an object": tensor('{"a": 1}'),
    "many dtypes": safetensors(
        b"{%s}" % b",".join(b'"%d":{"dtype":"D%d","shape":[1]}' % (i, i) for i in range(200))
    ),
    "a header of 5 MB": safetensors(b"{}" + 5 * 1024 * 1024 * b" "),
}


@pytest.mark.parametrize("body", SLOW.values(), ids=SLOW.keys())
@pytest.mark.timeout(20)
def test_safetensors(body: bytes) -> None:
    with pytest.raises(HeaderError):
        safetensors_parameters(io.BytesIO(body))


@pytest.mark.timeout(20)
def test_a_gguf_of_many_tensors() -> None:
    one = struct.pack("<Q", 1) + b"a" + struct.pack("<IQIQ", 1, 1, 0, 0)
    body = b"GGUF" + struct.pack("<IQQ", 3, 1_500_000, 0) + 1_500_000 * one
    file = io.BytesIO(body)
    with pytest.raises(HeaderError):
        gguf_facts(file)
    assert file.tell() < 100


def test_a_header_that_is_damaged_is_read_once(
    tmp_path: Path, plain: Folder, state: State, serve: Serve
) -> None:
    write(tmp_path / "plain" / "model.safetensors", SLOW["many dimensions"])
    client = serve(plain)
    assert "safetensors" not in client.get("/api/models/Org/Model").json()
    kept = list((state.folder / "headers").rglob("*.json"))
    assert [fact.read_bytes() for fact in kept] == [b"{}"]
