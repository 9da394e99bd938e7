"""A side file that is none keeps nobody waiting, and takes no other repository along."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from mirror.core.errors import UnavailableError
from mirror.core.files import folder_size, open_regular, read_regular, remove_tree
from mirror.core.record import MAX_SIDE_FILE, ManifestError, Record, parse_tree
from mirror.core.repo import Repo, check_ref
from mirror.core.source import Source
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.bento import BentoStore
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from mirror.sources.repo_dir import RepoDir
from tests.conftest import Serve
from tests.folders import (
    COMMIT,
    MODEL,
    Content,
    add_tree,
    make_classic,
    make_managed,
    make_plain,
    make_record,
    write,
)

GOOD = Content(repo=Repo.parse("Org/Good"))
Hostile = Callable[[Path], None]


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


HOSTILE = pytest.mark.parametrize("hostile", [fifo, endless])


@HOSTILE
def test_only_regular_files_are_read(tmp_path: Path, hostile: Hostile) -> None:
    hostile(tmp_path / "file")
    for call in (open_regular, lambda path: read_regular(path, 10)):
        with pytest.raises(OSError, match="not a regular file"):
            call(tmp_path / "file")
    write(tmp_path / "long", bytes(11))
    with pytest.raises(OSError, match="longer than 10 bytes"):
        read_regular(tmp_path / "long", 10)
    assert read_regular(tmp_path / "long", 11) == bytes(11)


@HOSTILE
@pytest.mark.parametrize(
    "name", ["refs/main", "refs/other", f"trees/{COMMIT}.json", "snapshots/.gitattributes"]
)
@pytest.mark.timeout(30)
def test_a_foreign_cache(
    hub: Path, foreign: HfCache, serve: Serve, name: str, hostile: Hostile
) -> None:
    make_classic(hub, GOOD)
    folder = make_classic(hub)
    add_tree(folder, Content())
    if name.endswith(".gitattributes"):
        name = name.replace("snapshots", f"snapshots/{COMMIT}")
        write(folder / "snapshots" / COMMIT / "real.txt", b"a file without a name")
    hostile(folder / name)
    client = serve(foreign)
    assert {row["id"] for row in client.get("/api/models").json()} >= {"Org/Good"}
    assert client.get(f"/Org/Good/resolve/{COMMIT}/config.json").status_code == 200
    assert client.get(f"/Org/Model/resolve/{COMMIT}/config.json").status_code == 200


@HOSTILE
@pytest.mark.parametrize("name", ["refs/main", f"trees/{COMMIT}.json", f"hubmirror/{COMMIT}.json"])
@pytest.mark.timeout(30)
def test_a_managed_cache(
    hub: Path, managed: HfCache, serve: Serve, name: str, hostile: Hostile
) -> None:
    make_managed(hub, GOOD)
    folder = make_managed(hub)
    hostile(folder / name)
    client = serve(managed)
    assert {row["id"] for row in client.get("/api/models").json()} >= {"Org/Good"}
    assert client.get("/Org/Good/resolve/main/config.json").status_code == 200
    assert client.get("/Org/Model/resolve/main/config.json").status_code in (200, 503)


@HOSTILE
@pytest.mark.timeout(30)
def test_a_plain_folder(tmp_path: Path, plain: Folder, serve: Serve, hostile: Hostile) -> None:
    make_plain(tmp_path / "plain")
    hostile(tmp_path / "plain" / ".gitattributes")
    hostile(tmp_path / "plain" / "other")
    answer = serve(plain).get("/Org/Model/resolve/main/config.json")
    assert answer.content == GOOD.files["config.json"]


@HOSTILE
@pytest.mark.parametrize("name", ["latest", "1/model.yaml"])
@pytest.mark.timeout(30)
def test_a_bento_store(
    tmp_path: Path, digests: Digests, serve: Serve, name: str, hostile: Hostile
) -> None:
    for model in ("org--good", "org--model"):
        write(tmp_path / "models" / model / "1" / "model.yaml", b"name: x\nmetadata: {}\n")
        write(tmp_path / "models" / model / "1" / "config.json", b"{}")
        write(tmp_path / "models" / model / "latest", b"1")
    hostile(tmp_path / "models" / "org--model" / name)
    client = serve(BentoStore(tmp_path, digests, ttl_s=0))
    assert {row["id"] for row in client.get("/api/models").json()} >= {"org/good"}


@HOSTILE
@pytest.mark.timeout(30)
def test_the_state_folder(state: State, hostile: Hostile) -> None:
    state.put("digests", "key", [1, 2, "x"])
    (fact,) = state.folder.rglob("*.json")
    hostile(fact)
    assert state.get("digests", "key") is None


@pytest.mark.parametrize("lie", [[1, 2, 3], [1, 2, "../x"], [1, None, 64 * "a"], "x", {"a": 1}])
def test_digests_of_the_state_folder_are_checked(
    tmp_path: Path, state: State, serve: Serve, lie: Any
) -> None:
    make_plain(tmp_path / "plain")
    write(tmp_path / "plain" / "model.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    first = Digests(state)
    source = Folder(tmp_path / "plain", MODEL, first, ttl_s=0)
    right = source.snapshot(MODEL, "main").commit_hash
    first.close()
    for fact in state.folder.rglob("*.json"):
        fact.write_bytes(orjson.dumps(lie))
    second = Digests(state)
    again = Folder(tmp_path / "plain", MODEL, second, ttl_s=0)
    assert again.snapshot(MODEL, "main").commit_hash == right
    for fact in state.folder.rglob("*.json"):
        fact.write_bytes(orjson.dumps(lie))
    assert serve(again).get("/api/models/Org/Model").status_code == 200
    second.close()


@pytest.mark.parametrize(
    "change",
    [
        {"pulled_at": "0001-01-01T00:00:00+23:59"},
        {"pulled_at": "9999-12-31T23:59:59-23:59"},
        {"pulled_at": "1969-12-31T00:00:00+00:00"},
        {"refs": ["refs/heads//etc/x"]},
        {"refs": ["refs/heads/../../x"]},
        {"refs": ["main"]},
        {"refs": [5]},
        {"files": {"/".join(1400 * "d"): {"size": 1, "blob_id": 40 * "a"}}},
        {"files": {"a": {"size": "5", "blob_id": 40 * "a"}}},
        {"files": {"a": {"size": -1, "blob_id": 40 * "a"}}},
        {"files": {"a": {"size": 1, "blob_id": "../x"}}},
        {"files": {"a": {"size": 1, "blob_id": 40 * "a", "lfs_sha256": "+" + 63 * "a"}}},
        {
            "files": {
                "a": {"size": 1, "blob_id": 40 * "a"},
                "a/b": {"size": 1, "blob_id": 40 * "a"},
            }
        },
    ],
)
def test_a_record_that_no_pull_writes(
    hub: Path, managed: HfCache, serve: Serve, change: dict[str, Any]
) -> None:
    make_managed(hub, GOOD)
    folder = make_managed(hub)
    body = orjson.loads(make_record(Content()).render()) | change
    text = orjson.dumps(body)
    with pytest.raises(ManifestError):
        Record.parse(text)
    (folder / "hubmirror" / f"{COMMIT}.json").write_bytes(text)
    client = serve(managed)
    assert [row["id"] for row in client.get("/api/models").json()] == ["Org/Good"]
    assert client.get("/Org/Model/resolve/main/config.json").status_code == 503


@pytest.mark.parametrize(
    "info",
    [
        {"tags": 5, "downloads": "many"},
        {"downloads": None, "likes": -1, "trendingScore": "x"},
        {"lastModified": 5, "createdAt": [], "pipeline_tag": {}},
        {"cardData": [1], "config": "x", "siblings": 7, "gated": 3},
    ],
)
def test_what_upstream_said_has_the_types_that_clients_read(
    hub: Path, managed: HfCache, serve: Serve, info: dict[str, Any]
) -> None:
    make_managed(hub, GOOD, info={"tags": ["a"], "downloads": 3})
    make_managed(hub, info=info)
    client = serve(managed)
    for query in ("", "?sort=downloads", "?sort=lastModified", "?filter=a", "?full=true"):
        answer = client.get(f"/api/models{query}")
        assert answer.status_code == 200, query
        for row in answer.json():
            assert isinstance(row["tags"], list)
            assert isinstance(row["downloads"], int)
    assert client.get("/api/models/Org/Model").status_code == 200


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no tmpfs, which keeps any time")
@pytest.mark.parametrize("kind", ["foreign", "plain"])
def test_a_time_that_no_calendar_has(digests: Digests, serve: Serve, kind: str) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        root = Path(name)
        source: Source
        if kind == "foreign":
            file = make_classic(root) / "snapshots" / COMMIT
            source = HfCache(root, digests, managed=False, ttl_s=0)
        else:
            file = make_plain(root) / "config.json"
            source = Folder(root, MODEL, digests, ttl_s=0)
        os.utime(file, (3e11, 3e11))
        answer = serve(source).get("/api/models/Org/Model")
    assert answer.json()["lastModified"] == "9999-12-31T00:00:00.000Z"


@pytest.mark.parametrize("kind", ["foreign", "plain"])
def test_folders_that_have_no_end(
    tmp_path: Path, hub: Path, foreign: HfCache, plain: Folder, serve: Serve, kind: str
) -> None:
    folder = make_classic(hub) if kind == "foreign" else make_plain(tmp_path / "plain")
    base = folder / "snapshots" / COMMIT if kind == "foreign" else folder
    descriptor = os.open(base, os.O_RDONLY)
    for _ in range(1400):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("file.txt", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    try:
        client = serve(foreign if kind == "foreign" else plain)
        assert client.get("/Org/Model/resolve/main/config.json").status_code == 200
        answer = client.get("/api/models/Org/Model/tree/main?recursive=true")
        assert "config.json" in {row["path"] for row in answer.json()}
        assert [row["id"] for row in client.get("/api/models").json()] == ["Org/Model"]
        assert folder_size(folder) > 0
    finally:
        remove_tree(base)
    assert not base.exists()


def test_a_ref_whose_name_is_not_utf_8(hub: Path, foreign: HfCache, serve: Serve) -> None:
    folder = make_classic(hub)
    (Path(os.fsdecode(os.fsencode(folder / "refs") + b"/b\xff"))).write_text(COMMIT)
    client = serve(foreign)
    refs = client.get("/api/models/Org/Model/refs")
    assert [row["name"] for row in refs.json()["branches"]] == ["main"]
    assert client.get("/Org/Model/resolve/main/config.json").status_code == 200


@pytest.mark.parametrize(
    "name",
    ["refs/heads/main", "refs/heads/feature/x", "refs/tags/v1.0", "refs/pr/1",
     "refs/convert/parquet", "refs/heads/ünï", "refs/heads/a@b"],
)  # fmt: skip
def test_names_of_refs(name: str) -> None:
    assert check_ref(name) == name


@pytest.mark.parametrize(
    "name",
    ["main", "refs", "refs/heads", "refs/heads/", "/refs/heads/x", "refs//heads/x",
     "refs/heads//etc/x", "refs/heads/../x", "refs/heads/.x", "refs/heads/x.lock",
     "refs/heads/x/../../y", "refs/heads/a b", "refs/heads/a\nb", "refs/heads/a\0",
     "refs/heads/a\\b", "refs/heads/a:b", "refs/heads/refs/pr/1", "refs/heads/x/",
     "refs/heads/x.", "refs/heads/" + 201 * "x", "refs/heads/" + 300 * "a/b", "refs/../etc/x",
     "refs/heads/\udcff"],
)  # fmt: skip
def test_what_is_not_the_name_of_a_ref(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a ref"):
        check_ref(name)


def test_a_large_card_is_parsed_once(tmp_path: Path, plain: Folder, serve: Serve) -> None:
    rows = "".join(f"  - name: config_{number}\n    size: {number}\n" for number in range(8_000))
    card = f"---\nlicense: mit\ndataset_info:\n{rows}---\n# Card\n"
    write(tmp_path / "plain" / "README.md", card.encode())
    client = serve(plain)
    first = client.get("/api/models/Org/Model").json()["cardData"]
    assert (first["license"], len(first["dataset_info"])) == ("mit", 8_000)
    began = time.process_time()
    assert client.get("/api/models/Org/Model").json()["cardData"] == first
    kept = time.process_time() - began
    (tmp_path / "plain" / "README.md").write_bytes(card.encode() + b"more")
    began = time.process_time()
    client.get("/api/models/Org/Model")
    assert kept < (time.process_time() - began) / 2


LONG: dict[str, Callable[[Path], object]] = {
    "of 300 MB": lambda path: os.truncate(path, 300_000_000),
    "of 3 million values": lambda path: path.write_bytes(b"[" + 3_000_000 * b"1," + b"1]"),
    "of 3 million lists": lambda path: path.write_bytes(3_000_000 * b"[],"),
}


@pytest.mark.parametrize("form", LONG)
@pytest.mark.parametrize("name", [f"trees/{COMMIT}.json", f"hubmirror/{COMMIT}.json"])
def test_a_long_side_file_is_not_parsed(
    hub: Path, managed: HfCache, foreign: HfCache, name: str, form: str
) -> None:
    folder = make_managed(hub)
    write(folder / name, b"{")
    LONG[form](folder / name)
    began = time.process_time()
    if name.startswith("hubmirror"):
        with pytest.raises(UnavailableError):
            managed.snapshot(MODEL, COMMIT)
    else:
        assert RepoDir(hub, MODEL, folder).read_tree(COMMIT) is None
    assert time.process_time() - began < 10
    with pytest.raises((ManifestError, OSError), match=r"longer than|too long: it has more than"):
        parse_tree(read_regular(folder / name, MAX_SIDE_FILE))
