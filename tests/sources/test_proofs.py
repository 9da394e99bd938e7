"""A foreign blob is not believed to be what its name says."""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
from pathlib import Path

import pytest

from mirror.core.errors import BlobUnreadableError
from mirror.core.source import Source
from mirror.derived.proofs import problem_of
from mirror.derived.state import State
from mirror.maintenance.verify import Verify
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from tests.carried import flip
from tests.conftest import Serve
from tests.folders import (
    COMMIT,
    MODEL,
    Content,
    make_classic,
    make_plain,
    make_real_files,
    make_safetensors,
    repo_dir,
    write,
)

BIG = 200_000


def _safetensors() -> bytes:
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (BIG, BIG)
    return len(header).to_bytes(8, "little") + header + bytes(BIG)


def _gguf() -> bytes:
    """A file of version 3 with one tensor of Q8_0: 32 values in 34 bytes."""
    name = struct.pack("<Q", 6) + b"weight"
    tensor = name + struct.pack("<IQIQ", 1, BIG, 8, 0)
    key = struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + key + tensor
    return head + bytes(-len(head) % 32) + bytes(BIG // 32 * 34)


def _zip() -> bytes:
    with io.BytesIO() as body:
        with zipfile.ZipFile(body, "w") as archive:
            archive.writestr("data.pkl", os.urandom(BIG))
        return body.getvalue()


WEIGHTS = {
    "model.safetensors": _safetensors(),
    "model.gguf": _gguf(),
    "pytorch_model.bin": _zip(),
    "train.parquet": b"PAR1" + bytes(BIG) + b"PAR1",
    "config.json": b'{"model_type": "llama"}',
}
CONTENT = Content(WEIGHTS)


def _blob(hub: Path, path: str) -> Path:
    return repo_dir(hub) / "blobs" / CONTENT.entries[path].etag


def _refused(source: Source, path: str) -> str:
    stored = source.snapshot(MODEL, "main").find(path)
    for serve in (stored.open, stored.check):
        with pytest.raises(BlobUnreadableError) as failure:
            serve()
    return str(failure.value)


def test_whole_files_are_served(hub: Path, foreign: HfCache, tmp_path: Path, plain: Folder) -> None:
    make_classic(hub, CONTENT)
    make_plain(tmp_path / "plain", CONTENT)
    assert foreign.snapshot(MODEL, "main").problems == {}
    assert plain.snapshot(MODEL, "main").problems == {}


@pytest.mark.parametrize("path", WEIGHTS)
def test_an_empty_blob_is_refused(hub: Path, foreign: HfCache, path: str) -> None:
    make_classic(hub, CONTENT)
    os.truncate(_blob(hub, path), 0)
    assert "it is empty" in _refused(foreign, path)


def test_an_empty_file_is_served(hub: Path, foreign: HfCache) -> None:
    make_classic(hub, Content({"__init__.py": b"", "a.bin": b""}))
    assert foreign.snapshot(MODEL, "main").problems == {}


@pytest.mark.parametrize("path", WEIGHTS)
@pytest.mark.parametrize("lacks", [1, 0.5])
def test_a_truncated_blob_is_refused(hub: Path, foreign: HfCache, path: str, lacks: float) -> None:
    make_classic(hub, CONTENT)
    size = len(WEIGHTS[path])
    os.truncate(_blob(hub, path), size - 1 if lacks == 1 else size // 2)
    assert _refused(foreign, path)


@pytest.mark.parametrize("path", [path for path in WEIGHTS if path != "config.json"])
def test_a_truncated_file_of_a_plain_folder_is_refused(
    tmp_path: Path, plain: Folder, path: str
) -> None:
    root = make_plain(tmp_path / "plain", CONTENT)
    os.truncate(root / path, len(WEIGHTS[path]) - 1)
    assert "it is cut off" in _refused(plain, path)


@pytest.mark.parametrize("path", ["model.safetensors", "model.gguf"])
@pytest.mark.parametrize("size", [20, 70_000])
def test_a_header_that_is_cut_off(hub: Path, foreign: HfCache, path: str, size: int) -> None:
    make_classic(hub, CONTENT)
    os.truncate(_blob(hub, path), size)
    assert _refused(foreign, path)


@pytest.mark.parametrize("path", ["model.safetensors", "model.gguf"])
def test_a_file_that_was_reserved_and_never_written(hub: Path, foreign: HfCache, path: str) -> None:
    make_classic(hub, CONTENT)
    _blob(hub, path).write_bytes(bytes(BIG))
    assert "zeros" in _refused(foreign, path)


@pytest.mark.parametrize(
    "text",
    [
        b"../../blobs/%s",
        b"..\\..\\blobs\\%s",
        b"../../../../models--Org--Model/../blobs/%s",
        b"XSym\n0052\n" + b"0" * 32 + b"\n../../blobs/%s\n" + b" " * 900,
    ],
)
def test_a_link_that_became_a_text_file_is_refused(
    hub: Path, foreign: HfCache, tmp_path: Path, plain: Folder, text: bytes
) -> None:
    """As git, copying tools and Samba leave the links of a cache on Windows."""
    body = text.replace(b"models--Org--Model/../", b"") % (b"a" * 64)
    make_real_files(hub, Content({"model.safetensors": body, "config.json": b"{}"}))
    assert "in place of a symlink" in _refused(foreign, "model.safetensors")
    make_plain(tmp_path / "plain", Content({"model.safetensors": body}))
    assert "in place of a symlink" in _refused(plain, "model.safetensors")


def test_a_link_of_cygwin_is_refused(hub: Path, foreign: HfCache) -> None:
    body = b"!<symlink>\xff\xfe" + f"../../blobs/{'a' * 40}\0".encode("utf-16-le")
    make_real_files(hub, Content({"config.json": body}))
    assert "in place of a symlink" in _refused(foreign, "config.json")


def test_a_changed_small_file_is_refused(hub: Path, foreign: HfCache) -> None:
    make_classic(hub, CONTENT)
    flip(_blob(hub, "config.json"))
    assert "do not match its digest" in _refused(foreign, "config.json")


def test_a_client_gets_503_and_no_digest_of_a_truncated_blob(
    hub: Path, foreign: HfCache, serve: Serve
) -> None:
    make_classic(hub, CONTENT)
    client = serve(foreign)
    url = "/Org/Model/resolve/main/model.safetensors"
    assert client.head(url).status_code == 200
    os.truncate(_blob(hub, "model.safetensors"), BIG)
    for answer in (client.get(url), client.head(url)):
        assert answer.status_code == 503
        assert "etag" not in answer.headers
        assert "retry-after" not in answer.headers  # only the operator can mend it
        assert "model.safetensors" in answer.headers["x-error-message"]
    listed = client.get(f"/api/models/Org/Model/tree/{COMMIT}").json()
    assert "model.safetensors" in [row["path"] for row in listed]
    assert all("xetHash" not in row for row in listed)


def test_what_verify_found_is_remembered_and_refused(
    hub: Path, foreign: HfCache, state: State
) -> None:
    make_classic(hub, CONTENT)
    blob = _blob(hub, "model.safetensors")
    flip(blob, 1000 + BIG // 2)
    assert foreign.snapshot(MODEL, "main").problems == {}
    for _ in range(2):
        found = Verify(lambda _: None).source(foreign, [MODEL], state)
        assert [(one.kind, one.path) for one in found] == [("corrupt", "model.safetensors")]
        assert "`hubmirror verify`" in _refused(foreign, "model.safetensors")
    flip(blob, 1000 + BIG // 2)  # as a copy in place that keeps the time
    assert Verify(lambda _: None).source(foreign, [MODEL], state) == []
    assert foreign.snapshot(MODEL, "main").problems == {}


def test_a_replaced_file_is_served_before_the_next_verify(
    hub: Path, foreign: HfCache, state: State
) -> None:
    make_classic(hub, CONTENT)
    blob = _blob(hub, "model.safetensors")
    flip(blob, BIG)
    Verify(lambda _: None).source(foreign, [MODEL], state)
    blob.unlink()
    write(blob, WEIGHTS["model.safetensors"])
    assert foreign.snapshot(MODEL, "main").problems == {}


def test_what_verify_found_in_a_plain_folder(tmp_path: Path, plain: Folder, state: State) -> None:
    root = make_plain(tmp_path / "plain", CONTENT)
    assert plain.snapshot(MODEL, "main").problems == {}
    flip(root / "model.safetensors", BIG)
    found = Verify(lambda _: None).source(plain, [MODEL], state)
    assert [one.kind for one in found] == ["corrupt"]
    assert "`hubmirror verify`" in _refused(plain, "model.safetensors")


def test_a_proof_is_made_once(tmp_path: Path) -> None:
    """A second look costs no read: it finds the file's identity unchanged."""
    file = tmp_path / "model.gguf"
    file.write_bytes(_gguf())
    found = file.stat()
    problem_of("model.gguf", str(file), found, None)
    file.unlink()
    started = time.monotonic()
    for _ in range(1000):
        assert problem_of("model.gguf", str(file), found, None) == ""
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("body", [b"PK", b"GGUF" + bytes(100), b"x" * 100, b"\x01" * 9 + b"{"])
def test_what_is_not_of_the_format_proves_nothing(hub: Path, foreign: HfCache, body: bytes) -> None:
    padded = body + b"\1" * 70_000
    files = {f"a{suffix}": padded for suffix in (".safetensors", ".bin", ".parquet")}
    make_classic(hub, Content(files))
    assert foreign.snapshot(MODEL, "main").problems == {}


def test_a_header_of_safetensors_alone(hub: Path, foreign: HfCache) -> None:
    make_classic(hub, Content({"a.safetensors": make_safetensors({"w": ("F32", [0])})}))
    assert foreign.snapshot(MODEL, "main").problems == {}
