"""Foreign caches: served as far as they go, without a promise that they cannot keep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirror.core.errors import (
    BlobUnreadableError,
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.core.repo import Repo
from mirror.sources.hf_cache import HfCache
from tests.folders import (
    COMMIT,
    FILES,
    MODEL,
    OLDER,
    Content,
    add_no_exist,
    add_tree,
    link,
    make_classic,
    make_real_files,
    make_shared,
    write,
)

WEIGHTS = "model.safetensors"


def _refusal(source: HfCache, path: str) -> str:
    """The error that a client gets for a file that is listed and cannot be served."""
    stored = source.snapshot(MODEL, "main").find(path)
    for serve in (stored.open, stored.check):
        with pytest.raises(BlobUnreadableError) as failure:
            serve()
    return str(failure.value)


def _lookup(source: HfCache, path: str) -> EntryNotFoundError:
    with pytest.raises(EntryNotFoundError) as failure:
        source.snapshot(MODEL, "main").find(path)
    return failure.value


def test_a_partial_snapshot_promises_nothing(hub: Path, foreign: HfCache) -> None:
    make_classic(hub)
    missing = _lookup(foreign, "nope.json")
    assert not missing.known
    assert "does not know whether upstream" in str(missing)


def test_a_tree_file_tells_what_is_absent(hub: Path, foreign: HfCache) -> None:
    add_tree(make_classic(hub), Content())
    assert _lookup(foreign, "nope.json").known


def test_a_marker_tells_what_is_absent(hub: Path, foreign: HfCache) -> None:
    add_no_exist(make_classic(hub), "nope.json")
    assert _lookup(foreign, "nope.json").known
    assert not _lookup(foreign, "other.json").known


def test_a_file_that_was_never_downloaded_is_no_promise(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub)
    add_tree(folder, Content())
    (folder / "snapshots" / COMMIT / "config.json").unlink()
    missing = _lookup(foreign, "config.json")
    assert not missing.known
    assert "Upstream has the file" in str(missing)


def test_a_dangling_link_is_listed_and_refused(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub)
    (folder / "blobs" / Content().entries[WEIGHTS].etag).unlink()
    assert "blob that is not here" in _refusal(foreign, WEIGHTS)
    file = foreign.snapshot(MODEL, "main").find(WEIGHTS).file
    assert file.lfs_sha256 == Content().entries[WEIGHTS].lfs_sha256
    add_tree(folder, Content())
    assert foreign.snapshot(MODEL, "main").find(WEIGHTS).file == Content().entries[WEIGHTS]


def test_shared_blobs_that_rsync_left_behind_are_refused(hub: Path, foreign: HfCache) -> None:
    make_shared(hub)
    for blob in (hub / "blobs").rglob("??/*"):
        blob.unlink()
    assert "blob that is not here" in _refusal(foreign, WEIGHTS)


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../../../../outside", "../../../models--Org--Other/blobs/x"]
)
def test_a_link_that_leaves_the_repository_is_not_followed(
    hub: Path, foreign: HfCache, target: str
) -> None:
    folder = make_classic(hub)
    write(hub.parent / "outside", b"secret")
    write(hub / "models--Org--Other" / "blobs" / "x", b"secret")
    (folder / "snapshots" / COMMIT / "evil.txt").symlink_to(target)
    assert "outside the blobs of the cache" in _refusal(foreign, "evil.txt")


def test_a_link_loop_is_not_followed(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub)
    one, two = folder / "blobs" / "one", hub / "blobs" / "two"
    link(one, two)
    link(two, one)
    link(folder / "snapshots" / COMMIT / "loop.txt", one)
    assert "not a regular file" in _refusal(foreign, "loop.txt")


def test_a_blob_of_the_wrong_size_is_never_served(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub)
    add_tree(folder, Content())
    (folder / "blobs" / Content().entries[WEIGHTS].etag).write_bytes(b"short")
    stored = foreign.snapshot(MODEL, "main").find(WEIGHTS)
    for serve in (stored.open, stored.check):
        with pytest.raises(BlobUnreadableError, match="5 bytes where 320000"):
            serve()


def test_a_blob_that_vanished_is_an_outage(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub)
    stored = foreign.snapshot(MODEL, "main").find(WEIGHTS)
    (folder / "blobs" / stored.file.etag).unlink()
    for serve in (stored.open, stored.check):
        with pytest.raises(BlobUnreadableError, match="No such file"):
            serve()


def test_a_damaged_tree_file_is_passed_over(hub: Path, foreign: HfCache) -> None:
    folder = make_classic(hub)
    write(folder / "trees" / f"{COMMIT}.json", b'{"format_version": 1, "files": {"../x": {}}}')
    assert foreign.snapshot(MODEL, "main").files.keys() == FILES.keys()


def test_a_damaged_ref_is_an_outage(hub: Path, foreign: HfCache) -> None:
    write(make_classic(hub) / "refs" / "main", b"garbage")
    with pytest.raises(UnavailableError, match="damaged"):
        foreign.snapshot(MODEL, "main")


def test_a_ref_to_a_snapshot_that_is_not_here(hub: Path, foreign: HfCache) -> None:
    write(make_classic(hub) / "refs" / "v2", OLDER.encode())
    with pytest.raises(RevisionNotFoundError):
        foreign.snapshot(MODEL, "v2")
    assert foreign.refs(MODEL) == {"refs/heads/main": COMMIT}


def test_several_revisions_and_refs(hub: Path, foreign: HfCache) -> None:
    make_classic(hub)
    make_classic(hub, Content({"a.txt": b"old"}, OLDER), ref="refs/pr/1")
    assert foreign.snapshot(MODEL, "refs/pr/1").commit_hash == OLDER
    assert foreign.snapshot(MODEL, OLDER[:7]).commit_hash == OLDER
    assert foreign.refs(MODEL) == {"refs/heads/main": COMMIT, "refs/pr/1": OLDER}


def test_a_snapshot_without_a_ref_answers_to_head(hub: Path, foreign: HfCache) -> None:
    make_classic(hub, ref=None)
    assert foreign.snapshot(MODEL, "HEAD").commit_hash == COMMIT
    with pytest.raises(RevisionNotFoundError):
        foreign.snapshot(MODEL, "main")


def test_refs_of_abbreviated_hashes_are_no_branches(hub: Path, foreign: HfCache) -> None:
    write(make_classic(hub) / "refs" / COMMIT[:7], COMMIT.encode())
    assert list(foreign.refs(MODEL)) == ["refs/heads/main"]


def test_real_files_without_a_tree_are_hashed(hub: Path, foreign: HfCache) -> None:
    make_real_files(hub)
    found = foreign.snapshot(MODEL, "main").files
    assert {path: one.file for path, one in found.items()} == Content().entries


def test_real_files_with_a_tree_need_no_hashing(hub: Path, foreign: HfCache) -> None:
    folder = make_real_files(hub)
    add_tree(folder, Content())
    os.truncate(folder / "snapshots" / COMMIT / WEIGHTS, 7)
    assert foreign.snapshot(MODEL, "main").find(WEIGHTS).file == Content().entries[WEIGHTS]


@pytest.mark.parametrize("repo", ["gpt2", "datasets/org/data", "spaces/org/app", "datasets/squad"])
def test_every_type_and_bare_ids(hub: Path, foreign: HfCache, repo: str) -> None:
    make_classic(hub, Content(repo=Repo.parse(repo)))
    assert foreign.snapshot(Repo.parse(repo.lower()), "main").repo == Repo.parse(repo)
    with pytest.raises(RepositoryNotFoundError):
        foreign.snapshot(MODEL, "main")


def test_other_folders_of_a_cache_are_no_repositories(hub: Path, foreign: HfCache) -> None:
    make_shared(hub)
    for name in (".locks", "others--org--name", "models--a--b--c", "version.txt"):
        (hub / name).mkdir()
    assert foreign.repos() == [MODEL]


def test_the_exact_case_is_preferred(hub: Path, foreign: HfCache) -> None:
    lower = Repo.parse("org/model")
    make_classic(hub)
    make_classic(hub, Content({"a.txt": b"lower"}, OLDER, lower))
    assert foreign.snapshot(lower, "main").commit_hash == OLDER
    assert foreign.snapshot(Repo.parse("ORG/MODEL"), "main").commit_hash == COMMIT


def test_a_cache_that_went_away_is_an_outage(hub: Path, foreign: HfCache) -> None:
    hub.rmdir()
    with pytest.raises(UnavailableError) as failure:
        foreign.snapshot(MODEL, "main")
    assert str(hub) not in str(failure.value)
