"""Repositories of real shapes, in both kinds of cache, behind a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.hf_cache import HfCache
from tests import shapes
from tests.conftest import serving
from tests.servers import Command, run_command
from tests.shapes import SHAPES, Shape

MAKERS = {"foreign": shapes.make_foreign, "managed": shapes.make_managed}
_MIB = 1024 * 1024


@pytest.fixture(params=MAKERS, scope="module")
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    """A client of one server that holds all shapes: no test changes them. Headers are read once for
    both kinds, since facts are kept by digest."""
    folder = tmp_path_factory.mktemp(request.param)
    for make in SHAPES.values():
        MAKERS[request.param](folder / "hub", make())
    state = State(tmp_path_factory.getbasetemp() / "state-of-shapes")
    with closing(Digests(state)) as digests:
        source = HfCache(folder / "hub", digests, managed=request.param == "managed")
        with serving(state, source) as client:
            yield client


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]()


def test_holes_take_no_disk(tmp_path: Path) -> None:
    folder = shapes.make_managed(tmp_path, shapes.kimi_k2_thinking())
    blobs = [blob.stat() for blob in (folder / "blobs").iterdir()]
    assert sum(blob.st_size for blob in blobs) == pytest.approx(594e9, rel=0.001)
    assert sum(blob.st_blocks * 512 for blob in blobs) < 64 * _MIB


def test_it_is_listed_under_its_author(client: httpx2.Client, shape: Shape) -> None:
    rows = client.get("/api/models", params={"author": shape.repo.author}).json()
    ids = {make().repo_id for make in SHAPES.values() if make().repo.author == shape.repo.author}
    assert {row["id"] for row in rows} == ids


def test_it_is_described(client: httpx2.Client, shape: Shape) -> None:
    info = client.get(f"/api/models/{shape.repo_id}").json()
    assert (info["id"], info["sha"]) == (shape.repo_id, shape.commit_hash)
    assert (info.get("library_name"), info["pipeline_tag"]) == (
        shape.library_name,
        shape.pipeline_tag,
    )
    assert shape.tags <= set(info["tags"])


def test_its_config_is_told(client: httpx2.Client, shape: Shape) -> None:
    config = client.get(f"/api/models/{shape.repo_id}").json().get("config", {})
    assert {key: config[key] for key in shape.config} == shape.config


def test_its_parameters_are_counted(client: httpx2.Client, shape: Shape) -> None:
    counted = client.get(f"/api/models/{shape.repo_id}").json().get("safetensors", {})
    assert counted.get("parameters", {}) == shape.parameters
    assert counted.get("total", 0) == sum(shape.parameters.values())


def test_its_size_is_told(client: httpx2.Client, shape: Shape) -> None:
    info = client.get(f"/api/models/{shape.repo_id}").json()
    blobs = {file.etag: file.size for file in shape.entries.values()}
    assert info["usedStorage"] == sum(blobs.values())


def test_its_siblings_are_all_files(client: httpx2.Client, shape: Shape) -> None:
    rows = client.get(f"/api/models/{shape.repo_id}", params={"blobs": True}).json()["siblings"]
    assert [(row["rfilename"], row["size"], row["blobId"]) for row in rows] == [
        (file.path, file.size, file.blob_id) for _, file in sorted(shape.entries.items())
    ]
    assert {row["rfilename"]: row["lfs"]["sha256"] for row in rows if "lfs" in row} == {
        file.path: file.lfs_sha256 for file in shape.entries.values() if file.lfs_sha256
    }


def test_its_tree_is_whole(client: httpx2.Client, shape: Shape) -> None:
    rows = client.get(f"/api/models/{shape.repo_id}/tree/main", params={"recursive": True}).json()
    assert {(row["path"], row["size"], row["oid"]) for row in rows if row["type"] == "file"} == {
        (file.path, file.size, file.blob_id) for file in shape.entries.values()
    }
    assert {row["path"] for row in rows if row["type"] == "directory"} == {
        path.rpartition("/")[0] for path in shape.files if "/" in path
    }


def test_head_of_every_file(client: httpx2.Client, shape: Shape) -> None:
    answers = [client.head(_url(shape, path)).headers for path in shape.files]
    assert [(one["content-length"], one["etag"], one["x-repo-commit"]) for one in answers] == [
        (str(file.size), f'"{file.etag}"', shape.commit_hash) for file in shape.entries.values()
    ]


def test_its_small_files_arrive(client: httpx2.Client, shape: Shape) -> None:
    bodies = {path: client.get(_url(shape, path)).content for path in shape.small_files}
    assert bodies == shape.small_files


def test_the_end_of_its_largest_file(client: httpx2.Client, shape: Shape) -> None:
    size = shape.largest.size
    asked = {"range": f"bytes={size - 64}-{size - 1}"}
    answer = client.get(_url(shape, shape.largest.path), headers=asked)
    assert (answer.status_code, answer.content) == (206, bytes(64))
    assert answer.headers["content-range"] == f"bytes {size - 64}-{size - 1}/{size}"


def test_its_name_in_small_letters(client: httpx2.Client, shape: Shape) -> None:
    name = shape.repo_id.lower()
    assert client.get(f"/api/models/{name}").json()["id"] == shape.repo_id
    assert client.head(f"/{name}/resolve/main/README.md").status_code == 200


def test_memory_stays_flat(tmp_path: Path) -> None:
    """The largest shape, listed and described again and again, in a process of its own. What may
    grow, up to its bound, is the memory of answers that were just given."""
    shape = shapes.kimi_k2_thinking()
    shapes.make_managed(tmp_path / "data" / "hub", shape)
    with run_command(tmp_path, "--workers", "1") as command:
        _list_and_describe(command, shape, range(100))
        before = _memory(command)
        _list_and_describe(command, shape, range(100, 250))
        assert _memory(command) - before < 12 * _MIB


def _url(shape: Shape, path: str) -> str:
    return f"/{shape.repo_id}/resolve/main/{path}"


def _list_and_describe(command: Command, shape: Shape, times: range) -> None:
    """Each time with another query, or the last answer would be given again."""
    with httpx2.Client(base_url=command.url, timeout=20) as client:
        for time in times:
            client.get(f"/api/models?author={shape.repo.author}&full=1&time={time}")
            client.get(f"/api/models/{shape.repo_id}?blobs=1&time={time}")


def _memory(command: Command) -> int:
    """Resident bytes."""
    status = Path(f"/proc/{command.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])
