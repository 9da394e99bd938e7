"""`hubmirror rm` and `gc`: removed files, kept files, and the view of readers."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.maintenance.garbage import collect, find_garbage
from mirror.sources.hf_cache import HfCache
from mirror.store.cache import Cache
from tests.carried import TWIN, blob, hubmirror, names_below
from tests.conftest import Serve
from tests.filling import DAY, Later
from tests.folders import COMMIT, FILES, MODEL, OLDER, Content, make_managed, repo_dir, write

OLD = Content({**FILES, "config.json": b'{"old": true}'}, OLDER)
NEW = Content(FILES, COMMIT)
_TREE = "/api/models/Org/Model/tree/{}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A repository with two revisions, of which `main` is the newer one, and another repository."""
    hub = tmp_path / "data" / "hub"
    make_managed(hub, OLD, pulled_at=datetime(2025, 1, 1, tzinfo=UTC), refs=("refs/heads/main",))
    make_managed(hub, NEW)
    make_managed(hub, Content(repo=TWIN))
    return tmp_path / "data"


@pytest.fixture
def client(data: Path, serve: Serve, digests: Digests) -> httpx2.Client:
    return serve(HfCache(data / "hub", digests, managed=True, ttl_s=0))


def _status(client: httpx2.Client, revision: str, repo: str = "Org/Model") -> int:
    return client.get(f"/api/models/{repo}/tree/{revision}").status_code


def test_only_the_named_repository_is_removed(data: Path, client: httpx2.Client) -> None:
    assert hubmirror(data, "rm", "Org/Model").stdout.startswith("Removed Org/Model: ")
    assert not repo_dir(data / "hub").exists()
    assert list((data / "hub" / ".hubmirror" / "trash").iterdir()) == []
    assert (_status(client, "main"), _status(client, "main", "Org/Twin")) == (404, 200)
    hubmirror(data, "verify")


def test_a_running_download_finishes_after_rm(data: Path, client: httpx2.Client) -> None:
    body = bytes(64_000_000)
    make_managed(data / "hub", Content({"model.bin": body}))
    with client.stream("GET", "/Org/Model/resolve/main/model.bin") as answer:
        chunks = answer.iter_raw(65536)
        first = next(chunks)
        hubmirror(data, "rm", "Org/Model")
        assert len(first) + sum(map(len, chunks)) == len(body)


@pytest.mark.parametrize("revision", ["main", COMMIT, COMMIT[:8]])
def test_only_the_named_revision_is_removed(
    data: Path, client: httpx2.Client, revision: str
) -> None:
    hubmirror(data, "rm", f"Org/Model@{revision}")
    assert not blob(data / "hub", NEW, "config.json").exists()
    assert (_status(client, COMMIT), _status(client, OLDER)) == (404, 200)
    assert client.get(f"/Org/Model/resolve/{OLDER}/config.json").content == OLD.files["config.json"]
    assert "No problems found." in hubmirror(data, "verify").stdout


def test_the_other_revision_of_main_is_served(data: Path, client: httpx2.Client) -> None:
    hubmirror(data, "rm", f"Org/Model@{COMMIT}")
    assert client.get("/api/models/Org/Model").json()["sha"] == OLDER


def test_rm_of_the_last_revision_removes_the_repository(data: Path, client: httpx2.Client) -> None:
    hubmirror(data, "rm", "Org/Twin@main")
    assert _status(client, "main", "Org/Twin") == 404
    assert "Twin" not in hubmirror(data, "ls").stdout


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("Org/Model@nope", "Invalid rev id: nope"),
        (f"Org/Model@{'a' * 40}", "does not have this revision"),
        ("Org/Typo", "Org/Typo is "),
        ("Org/Typo@main", "Org/Typo"),
        ("../Org", "is not a repo_id"),
    ],
)
def test_rm_of_an_unknown_target_fails(data: Path, target: str, expected: str) -> None:
    before = names_below(data)
    output = hubmirror(data, "rm", target, status=1).output
    assert expected in output
    assert names_below(data) == before


def test_an_absent_data_folder_is_not_created(tmp_path: Path) -> None:
    hubmirror(tmp_path / "typo", "rm", "Org/Model", status=1)
    assert not (tmp_path / "typo").exists()
    hubmirror(tmp_path / "typo", "gc", status=1)
    assert not (tmp_path / "typo").exists()


def test_a_dry_run_removes_nothing(data: Path) -> None:
    before = names_below(data)
    output = hubmirror(data, "gc", "--dry-run").stdout
    assert f"Org/Model at {OLDER[:12]}: no ref points to it" in output
    assert output.splitlines()[-1] == "13 B could be freed."
    assert names_below(data) == before


def test_gc_removes_an_old_revision_with_its_own_blobs(data: Path, client: httpx2.Client) -> None:
    assert hubmirror(data, "gc").stdout.splitlines()[-1] == "13 B freed."
    assert not blob(data / "hub", OLD, "config.json").exists()
    assert (_status(client, OLDER), _status(client, "main")) == (404, 200)
    assert "No problems found." in hubmirror(data, "verify").stdout
    assert hubmirror(data, "gc").stdout == "0 B freed.\n"


def test_gc_keeps_a_revision_pulled_by_hash(data: Path) -> None:
    make_managed(data / "hub", OLD, refs=())
    make_managed(data / "hub", NEW)
    assert hubmirror(data, "gc").stdout == "0 B freed.\n"


def test_gc_keeps_a_revision_before_its_ref_is_copied(data: Path, client: httpx2.Client) -> None:
    (repo_dir(data / "hub", TWIN) / "refs" / "main").unlink()
    assert _status(client, "main", "Org/Twin") == 200
    hubmirror(data, "gc")
    assert _status(client, "main", "Org/Twin") == 200


def test_gc_keeps_a_tagged_revision(data: Path) -> None:
    make_managed(data / "hub", OLD, refs=("refs/heads/main", "refs/tags/v1"))
    make_managed(data / "hub", NEW)
    assert hubmirror(data, "gc").stdout == "0 B freed.\n"


def test_gc_keeps_recent_blobs_without_a_record(data: Path, later: Later) -> None:
    """rsync keeps the mtime of the files, however old."""
    arriving = Content({"w.bin": 100 * b"w"}, "d" * 40, TWIN)
    path = repo_dir(data / "hub", TWIN) / "blobs" / arriving.entries["w.bin"].etag
    write(path, 100 * b"w")
    os.utime(path, (0, 0))
    new = repo_dir(data / "hub", Repo.parse("Org/New")) / "blobs" / ("a" * 64)
    write(new, b"first pull")
    hubmirror(data, "gc")
    hubmirror(data, "rm", f"Org/Model@{COMMIT}")
    assert path.exists()
    assert new.exists()
    later(2 * DAY)
    assert "110 B freed" in hubmirror(data, "gc").stdout


def test_rm_of_a_repository_without_a_record(data: Path) -> None:
    new = repo_dir(data / "hub", Repo.parse("Org/New"))
    write(new / "blobs" / ("a" * 64), b"first pull")
    assert "Removed Org/New: 10 B freed." in hubmirror(data, "rm", "Org/New").stdout
    assert not new.exists()


def test_gc_removes_stray_blobs_and_abandoned_work(data: Path, later: Later) -> None:
    hubmirror(data, "gc")
    before = names_below(data)
    work_dir = data / "hub" / ".hubmirror"
    garbage = [
        repo_dir(data / "hub") / "blobs" / ("a" * 64),
        repo_dir(data / "hub") / "blobs" / ".rsync-left.XyZ",
        work_dir / "staging" / MODEL.folder_name / "half",
        work_dir / "corrupt" / MODEL.folder_name / "wrong",
        work_dir / "trash" / "0123" / "refs" / "main",
    ]
    for path in garbage:
        write(path, b"1234567")
    later(2 * DAY)
    assert hubmirror(data, "gc").stdout.splitlines()[-1] == "35 B freed."
    assert names_below(data) == before
    assert not [path for path in garbage if path.exists()]


def test_gc_keeps_blobs_of_a_damaged_record(data: Path) -> None:
    write(repo_dir(data / "hub") / "hubmirror" / f"{OLDER}.json", b"{")
    hubmirror(data, "gc")
    assert blob(data / "hub", OLD, "config.json").exists()


def test_gc_ignores_a_repository_with_a_running_pull(data: Path) -> None:
    """The pull has a partial file in staging, and a blob whose record is not written yet."""
    cache = Cache.of(data / "hub")
    staged = cache.staging(TWIN) / "half"
    ready = repo_dir(data / "hub", TWIN) / "blobs" / ("a" * 64)
    write(staged, b"half")
    write(ready, b"whole")
    gc = threading.Thread(target=lambda: collect(cache, find_garbage(cache)), daemon=True)
    with cache.lock(TWIN, lambda: None):
        gc.start()
        gc.join(5)
        waited = gc.is_alive()
        assert staged.exists()
        assert ready.exists()
    gc.join(5)
    assert not waited
    assert not blob(data / "hub", OLD, "config.json").exists()  # gc removed the other garbage


def test_gc_checks_garbage_again_before_removal(data: Path) -> None:
    """A pull has started, and another pull has moved `main` back."""
    cache = Cache.of(data / "hub")
    staged = cache.staging(TWIN) / "half"
    write(staged, b"half")
    found = find_garbage(cache)
    assert {item.path for item in found} >= {staged.parent}
    make_managed(data / "hub", OLD)
    with cache.lock(TWIN, lambda: None):
        collect(cache, found)
    assert staged.exists()
    hubmirror(data, "verify")
    assert blob(data / "hub", OLD, "config.json").exists()
