"""Files that a folder does not hold, although its owner wanted them: listed, and refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mirror.core.errors import (
    BlobUnreadableError,
    EntryNotFoundError,
    RevisionIncompleteError,
    UnavailableError,
)
from mirror.core.source import Source
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from tests.folders import (
    COMMIT,
    MODEL,
    Content,
    add_tree,
    entry,
    make_classic,
    make_plain,
    make_safetensors,
    repo_dir,
    write,
)

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
SHARDED = Content(
    {
        "config.json": b"{}",
        INDEX: json.dumps({"weight_map": {name: name for name in SHARDS}}).encode(),
        **{name: make_safetensors({name: ("F32", [0])}) for name in SHARDS},
    }
)


def _refused(source: Source, path: str) -> str:
    stored = source.snapshot(MODEL, "main").find(path)
    with pytest.raises(BlobUnreadableError) as failure:
        stored.open()
    assert path in str(failure.value)
    return str(failure.value)


def _problems(source: Source) -> dict[str, str]:
    return source.snapshot(MODEL, "main").problems


# A cache


def _unlink(hub: Path, *paths: str) -> None:
    """Remove files from the cache as if they had never been downloaded."""
    for path in paths:
        (repo_dir(hub) / "snapshots" / COMMIT / path).unlink()
        (repo_dir(hub) / "blobs" / SHARDED.entries[path].etag).unlink(missing_ok=True)


def test_a_whole_cache_has_no_problems(hub: Path, foreign: HfCache) -> None:
    make_classic(hub, SHARDED)
    assert _problems(foreign) == {}


def test_a_shard_that_the_index_names_and_nobody_has(hub: Path, foreign: HfCache) -> None:
    make_classic(hub, SHARDED)
    _unlink(hub, SHARDS[1])
    assert f"{INDEX} needs it" in _refused(foreign, SHARDS[1])
    add_tree(repo_dir(hub), SHARDED)
    snapshot = foreign.snapshot(MODEL, "main")
    assert snapshot.find(SHARDS[1]).file == SHARDED.entries[SHARDS[1]]
    assert snapshot.absent == {}


def test_an_index_in_a_folder_names_files_of_the_folder(hub: Path, foreign: HfCache) -> None:
    files = {f"unet/{path}": body for path, body in SHARDED.files.items()}
    del files[f"unet/{SHARDS[2]}"]
    make_classic(hub, Content(files))
    assert list(_problems(foreign)) == [f"unet/{SHARDS[2]}"]


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_a_part_of_a_split_file_that_is_missing(hub: Path, foreign: HfCache, suffix: str) -> None:
    make_classic(hub, Content({f"m-00001-of-00002.{suffix}": b"part"}))
    assert "needs it" in _refused(foreign, f"m-00002-of-00002.{suffix}")


def test_a_download_that_was_killed(hub: Path, foreign: HfCache) -> None:
    make_classic(hub, SHARDED)
    add_tree(repo_dir(hub), SHARDED)
    _unlink(hub, *SHARDS)
    etag = SHARDED.entries[SHARDS[0]].etag
    write(repo_dir(hub) / "blobs" / f"{etag}.0a1b2c3d.incomplete", b"half")
    assert "not finished" in _refused(foreign, SHARDS[0])


def test_a_cache_that_was_filled_in_part_on_purpose_stays_as_it_is(
    hub: Path, foreign: HfCache
) -> None:
    """`snapshot_download(allow_patterns=["*.json"])`, with and without a list of all files."""
    make_classic(hub, SHARDED)
    _unlink(hub, *SHARDS)
    assert _problems(foreign) == {}
    add_tree(repo_dir(hub), SHARDED)
    snapshot = foreign.snapshot(MODEL, "main")
    assert snapshot.problems == {}
    assert snapshot.absent.keys() == set(SHARDS)
    with pytest.raises(EntryNotFoundError) as failure:
        snapshot.find(SHARDS[0])
    assert not failure.value.known


def test_an_index_of_a_format_that_was_left_out(hub: Path, foreign: HfCache) -> None:
    index = json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}).encode()
    make_classic(hub, Content({**SHARDED.files, "pytorch_model.bin.index.json": index}))
    assert _problems(foreign) == {}


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b'{"weight_map": 1}', b'{"weight_map": {"a": "../x"}}', b"{"]
)
def test_a_damaged_index_names_nothing(hub: Path, foreign: HfCache, index: bytes) -> None:
    make_classic(hub, Content({INDEX: index, "a.txt": b"a"}))
    assert _problems(foreign) == {}


def test_a_cache_that_was_copied_without_its_symlinks(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub, SHARDED)
    _unlink(hub)
    for link in (folder / "snapshots" / COMMIT).iterdir():
        link.unlink()
    with pytest.raises(RevisionIncompleteError, match="copied without symlinks"):
        foreign.snapshot(MODEL, "main")


def test_a_name_that_is_not_utf_8(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub) / "snapshots" / COMMIT
    (folder / os.fsdecode(b"weights-\xff.bin")).write_bytes(b"weights")
    assert "not UTF-8" in _refused(foreign, "weights-\ufffd.bin")
    assert foreign.snapshot(MODEL, "main").files["config.json"].problem == ""


def test_a_fifo_in_a_snapshot(hub: Path, foreign: HfCache) -> None:
    os.mkfifo(make_classic(hub) / "snapshots" / COMMIT / "weights.bin")
    assert "not a regular file" in _refused(foreign, "weights.bin")


def test_a_pointer_of_git_lfs_in_a_cache(hub: Path, foreign: HfCache) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 7\n" % (b"a" * 64)
    file = Content({"weights.dat": pointer})
    make_classic(hub, file)
    assert "git-lfs pointer" in _refused(foreign, "weights.dat")


# A plain folder


def test_a_link_to_weights_that_are_not_there(tmp_path: Path, plain: Folder) -> None:
    root = make_plain(tmp_path / "plain")
    (root / "pytorch_model.bin").symlink_to("/nowhere/weights.bin")
    assert "path that does not exist" in _refused(plain, "pytorch_model.bin")


@pytest.mark.parametrize("present", [SHARDS[:2], []])
def test_shards_that_a_plain_folder_lacks(
    tmp_path: Path, plain: Folder, present: list[str]
) -> None:
    kept = {"config.json", INDEX, *present}
    files = {path: body for path, body in SHARDED.files.items() if path in kept}
    make_plain(tmp_path / "plain", Content(files))
    assert _problems(plain).keys() == set(SHARDS) - set(present)
    assert INDEX in _refused(plain, SHARDS[2])


def test_a_plain_folder_without_one_format(tmp_path: Path, plain: Folder) -> None:
    files = {"config.json": b"{}", INDEX: SHARDED.files[INDEX], "pytorch_model.bin": b"weights"}
    make_plain(tmp_path / "plain", Content(files))
    assert _problems(plain) == {}


def test_an_empty_plain_folder_is_not_an_empty_model(plain: Folder) -> None:
    with pytest.raises(UnavailableError, match="its folder is empty"):
        plain.snapshot(MODEL, "main")


def test_a_folder_with_a_name_that_is_not_utf_8(tmp_path: Path, plain: Folder) -> None:
    root = make_plain(tmp_path / "plain")
    write(root / os.fsdecode(b"\xff") / "weights.bin", b"weights")
    write(root / os.fsdecode(b"\xff") / ".gitattributes", b"*.bin filter=lfs\n")
    before = plain.snapshot(MODEL, "main").commit_hash
    assert "not UTF-8" in _refused(plain, "\ufffd/weights.bin")
    assert plain.snapshot(MODEL, "main").commit_hash == before


def test_a_fifo_in_a_plain_folder(tmp_path: Path, plain: Folder) -> None:
    os.mkfifo(make_plain(tmp_path / "plain") / "weights.bin")
    assert "not a regular file" in _refused(plain, "weights.bin")


def test_a_lost_file_has_the_digest_that_its_link_names(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub)
    file = entry("config.json", Content().files["config.json"])
    (folder / "blobs" / file.etag).unlink()
    assert foreign.snapshot(MODEL, "main").find("config.json").file.blob_id == file.blob_id
