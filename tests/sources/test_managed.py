"""Managed caches: a revision is whole, or it is not visible, whatever order things arrive in."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mirror.core.errors import (
    EntryNotFoundError,
    RevisionIncompleteError,
    RevisionNotFoundError,
)
from mirror.core.tree import lfs_file
from mirror.sources.hf_cache import HfCache
from mirror.sources.repo_dir import RepoDir
from tests.folders import (
    COMMIT,
    FILES,
    MODEL,
    OLDER,
    Content,
    content_of,
    make_classic,
    make_managed,
    write,
)

WEIGHTS = "model.safetensors"
NEWER = Content({**FILES, "config.json": b'{"new": true}'}, COMMIT)
OLD = Content({**FILES, "config.json": b'{"old": true}'}, OLDER)


def _pulled(year: int) -> datetime:
    return datetime(year, 1, 1, tzinfo=UTC)


def _blob(folder: Path, content: Content, path: str) -> Path:
    return folder / "blobs" / content.entries[path].etag


def test_a_complete_revision_is_visible(hub: Path, managed: HfCache) -> None:
    make_managed(hub)
    assert managed.snapshot(MODEL, "main").files.keys() == FILES.keys()


@pytest.mark.parametrize("revision", ["main", "HEAD", COMMIT])
def test_a_missing_blob_says_how_much_is_missing(
    hub: Path, managed: HfCache, revision: str
) -> None:
    folder = make_managed(hub)
    _blob(folder, Content(), WEIGHTS).unlink()
    with pytest.raises(RevisionIncompleteError, match="1 of 5 files") as failure:
        managed.snapshot(MODEL, revision)
    assert str(hub) not in str(failure.value)


def test_a_blob_that_grows_in_place_is_not_there_yet(hub: Path, managed: HfCache) -> None:
    blob = _blob(make_managed(hub), Content(), WEIGHTS)
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(RevisionIncompleteError):
        managed.snapshot(MODEL, "main")


def test_a_ref_answers_with_its_last_complete_revision(hub: Path, managed: HfCache) -> None:
    make_managed(hub, OLD, pulled_at=_pulled(2024))
    folder = make_managed(hub, NEWER, pulled_at=_pulled(2025))
    _blob(folder, NEWER, "config.json").unlink()
    assert managed.snapshot(MODEL, "main").commit_hash == OLDER
    assert managed.refs(MODEL) == {"refs/heads/main": OLDER}


def test_the_ref_file_decides_among_complete_revisions(hub: Path, managed: HfCache) -> None:
    make_managed(hub, NEWER, pulled_at=_pulled(2025))
    folder = make_managed(hub, OLD, pulled_at=_pulled(2024))
    assert (folder / "refs" / "main").read_text() == OLDER
    assert managed.snapshot(MODEL, "main").commit_hash == OLDER


def test_without_a_ref_file_the_last_pull_decides(hub: Path, managed: HfCache) -> None:
    make_managed(hub, NEWER, pulled_at=_pulled(2025))
    folder = make_managed(hub, OLD, pulled_at=_pulled(2024))
    shutil.rmtree(folder / "refs")
    assert managed.snapshot(MODEL, "main").commit_hash == COMMIT


def test_a_ref_that_arrived_before_all_else_waits(hub: Path, managed: HfCache) -> None:
    folder = make_managed(hub, OLD)
    write(folder / "refs" / "main", COMMIT.encode())
    assert managed.snapshot(MODEL, "main").commit_hash == OLDER
    with pytest.raises(RevisionIncompleteError, match="has not arrived"):
        managed.snapshot(MODEL, COMMIT)


def test_a_damaged_ref_falls_back_on_the_records(hub: Path, managed: HfCache) -> None:
    folder = make_managed(hub)
    write(folder / "refs" / "main", b"c0ff")
    assert managed.snapshot(MODEL, "main").commit_hash == COMMIT


@pytest.mark.parametrize("body", [b"", b"{", b'{"format_version": 99}', b'{"format_version": 1}'])
def test_a_damaged_record_is_not_visible(hub: Path, managed: HfCache, body: bytes) -> None:
    folder = make_managed(hub)
    write(folder / "hubmirror" / f"{COMMIT}.json", body)
    with pytest.raises(RevisionIncompleteError, match="record"):
        managed.snapshot(MODEL, "main")


def test_an_unknown_revision_is_not_found(hub: Path, managed: HfCache) -> None:
    make_managed(hub)
    with pytest.raises(RevisionNotFoundError):
        managed.snapshot(MODEL, "nope")


def test_an_unrecorded_repository_is_not_visible(hub: Path, managed: HfCache) -> None:
    make_classic(hub)
    with pytest.raises(RevisionIncompleteError, match="--source hf-cache:FOLDER"):
        managed.snapshot(MODEL, "main")
    assert managed.unrecorded() == [MODEL]


def test_a_foreign_declaration_makes_it_visible(hub: Path, foreign: HfCache) -> None:
    make_classic(hub)
    assert foreign.snapshot(MODEL, "main").commit_hash == COMMIT
    assert foreign.unrecorded() == []


def test_records_count_in_a_foreign_cache_too(hub: Path, foreign: HfCache) -> None:
    folder = make_managed(hub)
    _blob(folder, Content(), WEIGHTS).unlink()
    with pytest.raises(RevisionIncompleteError):
        foreign.snapshot(MODEL, "main")


def test_tags_and_pull_requests_keep_their_names(hub: Path, managed: HfCache) -> None:
    refs = ("refs/heads/main", "refs/tags/v1", "refs/pr/1", "refs/heads/feature/x")
    make_managed(hub, refs=refs)
    assert managed.refs(MODEL) == dict.fromkeys(refs, COMMIT)
    for revision in ("v1", "refs/pr/1", "feature/x", "refs/tags/v1"):
        assert managed.snapshot(MODEL, revision).commit_hash == COMMIT


def test_a_file_that_the_pull_left_out_is_no_promise(hub: Path, managed: HfCache) -> None:
    weights = lfs_file("original/w.bin", 7, 64 * "a")
    make_managed(hub, left_out={weights.path: weights})
    snapshot = managed.snapshot(MODEL, "main")
    with pytest.raises(EntryNotFoundError, match="left it out") as failure:
        snapshot.find("original/w.bin")
    assert not failure.value.known
    with pytest.raises(EntryNotFoundError) as failure:
        snapshot.find("nope.json")
    assert failure.value.known


def test_an_empty_data_folder_holds_nothing(hub: Path, managed: HfCache) -> None:
    hub.rmdir()
    assert managed.repos() == []


@pytest.mark.parametrize("seed", range(12))
def test_no_order_of_arrival_shows_half_a_revision(
    tmp_path: Path, hub: Path, managed: HfCache, seed: int
) -> None:
    """What rsync brings file by file, in any order, answers whole or not at all."""
    origin = tmp_path / "origin"
    make_managed(origin, OLD, pulled_at=_pulled(2024))
    make_managed(origin, NEWER, pulled_at=_pulled(2025))
    arrived = [RepoDir(hub, MODEL, hub / MODEL.folder_name).path.exists()]
    for _ in _copy_in_random_order(origin, hub, random.Random(seed)):
        try:
            snapshot = managed.snapshot(MODEL, "main")
        except RevisionIncompleteError:
            continue
        wanted = {OLDER: OLD, COMMIT: NEWER}[snapshot.commit_hash].files
        found = {path: content_of(one) for path, one in snapshot.files.items()}
        assert found == wanted
        arrived.append(True)
    assert arrived[-1]
    assert managed.snapshot(MODEL, "main").commit_hash == COMMIT


def _copy_in_random_order(origin: Path, target: Path, order: random.Random) -> Iterator[None]:
    paths = [path for path in origin.rglob("*") if path.is_symlink() or path.is_file()]
    order.shuffle(paths)
    for path in paths:
        copy = target / path.relative_to(origin)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy, follow_symlinks=False)
        yield
