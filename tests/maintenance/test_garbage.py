"""`hubmirror rm` and `gc`: what goes, what stays, and what readers see of it."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.maintenance.garbage import collect, waste
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
    """Two revisions of a repository: `main` was the older, and is the newer; and another one."""
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


def test_a_repository_is_removed_and_others_stay(data: Path, client: httpx2.Client) -> None:
    assert hubmirror(data, "rm", "Org/Model").stdout.startswith("Removed Org/Model: ")
    assert not repo_dir(data / "hub").exists()
    assert list((data / "hub" / ".hubmirror" / "trash").iterdir()) == []
    assert (_status(client, "main"), _status(client, "main", "Org/Twin")) == (404, 200)
    hubmirror(data, "verify")


def test_a_download_that_has_begun_ends_whole(data: Path, client: httpx2.Client) -> None:
    body = bytes(64_000_000)
    make_managed(data / "hub", Content({"model.bin": body}))
    with client.stream("GET", "/Org/Model/resolve/main/model.bin") as answer:
        chunks = answer.iter_raw(65536)
        first = next(chunks)
        hubmirror(data, "rm", "Org/Model")
        assert len(first) + sum(map(len, chunks)) == len(body)


@pytest.mark.parametrize("revision", ["main", COMMIT, COMMIT[:8]])
def test_a_revision_is_removed_and_the_other_stays(
    data: Path, client: httpx2.Client, revision: str
) -> None:
    hubmirror(data, "rm", f"Org/Model@{revision}")
    assert not blob(data / "hub", NEW, "config.json").exists()
    assert (_status(client, COMMIT), _status(client, OLDER)) == (404, 200)
    assert client.get(f"/Org/Model/resolve/{OLDER}/config.json").content == OLD.files["config.json"]
    assert "All is as it should be." in hubmirror(data, "verify").stdout


def test_main_is_what_is_left_of_it(data: Path, client: httpx2.Client) -> None:
    hubmirror(data, "rm", f"Org/Model@{COMMIT}")
    assert client.get("/api/models/Org/Model").json()["sha"] == OLDER


def test_with_its_last_revision_a_repository_is_gone(data: Path, client: httpx2.Client) -> None:
    hubmirror(data, "rm", "Org/Twin@main")
    assert _status(client, "main", "Org/Twin") == 404
    assert "Twin" not in hubmirror(data, "ls").stdout


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("Org/Model@nope", "Invalid rev id: nope"),
        (f"Org/Model@{'a' * 40}", "no such revision"),
        ("Org/Typo", "Org/Typo is "),
        ("Org/Typo@main", "Org/Typo"),
        ("../Org", "is no repo id"),
    ],
)
def test_what_is_not_here_cannot_be_removed(data: Path, target: str, said: str) -> None:
    before = names_below(data)
    output = hubmirror(data, "rm", target, status=1).output
    assert said in output
    assert names_below(data) == before


def test_a_data_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    hubmirror(tmp_path / "typo", "rm", "Org/Model", status=1)
    assert not (tmp_path / "typo").exists()
    hubmirror(tmp_path / "typo", "gc", status=1)
    assert not (tmp_path / "typo").exists()


def test_a_dry_run_removes_nothing(data: Path) -> None:
    before = names_below(data)
    said = hubmirror(data, "gc", "--dry-run").stdout
    assert f"Org/Model at {OLDER[:12]}: no ref names it any more" in said
    assert said.splitlines()[-1] == "13 B could be freed."
    assert names_below(data) == before


def test_an_old_revision_goes_with_its_own_blobs(data: Path, client: httpx2.Client) -> None:
    assert hubmirror(data, "gc").stdout.splitlines()[-1] == "13 B freed."
    assert not blob(data / "hub", OLD, "config.json").exists()
    assert (_status(client, OLDER), _status(client, "main")) == (404, 200)
    assert "All is as it should be." in hubmirror(data, "verify").stdout
    assert hubmirror(data, "gc").stdout == "0 B freed.\n"


def test_a_revision_that_was_pulled_by_its_hash_stays(data: Path) -> None:
    make_managed(data / "hub", OLD, refs=())
    make_managed(data / "hub", NEW)
    assert hubmirror(data, "gc").stdout == "0 B freed.\n"


def test_a_revision_whose_ref_has_not_arrived_stays(data: Path, client: httpx2.Client) -> None:
    (repo_dir(data / "hub", TWIN) / "refs" / "main").unlink()
    assert _status(client, "main", "Org/Twin") == 200
    hubmirror(data, "gc")
    assert _status(client, "main", "Org/Twin") == 200


def test_a_tag_keeps_its_revision(data: Path) -> None:
    make_managed(data / "hub", OLD, refs=("refs/heads/main", "refs/tags/v1"))
    make_managed(data / "hub", NEW)
    assert hubmirror(data, "gc").stdout == "0 B freed.\n"


def test_blobs_that_arrive_before_their_record_stay(data: Path, later: Later) -> None:
    """rsync keeps their times, however old."""
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


def test_a_repository_whose_first_pull_was_not_finished(data: Path) -> None:
    new = repo_dir(data / "hub", Repo.parse("Org/New"))
    write(new / "blobs" / ("a" * 64), b"first pull")
    assert "Removed Org/New: 10 B freed." in hubmirror(data, "rm", "Org/New").stdout
    assert not new.exists()


def test_stray_blobs_and_what_was_abandoned_go(data: Path, later: Later) -> None:
    hubmirror(data, "gc")
    before = names_below(data)
    work_dir = data / "hub" / ".hubmirror"
    waste = [
        repo_dir(data / "hub") / "blobs" / ("a" * 64),
        repo_dir(data / "hub") / "blobs" / ".rsync-left.XyZ",
        work_dir / "staging" / MODEL.folder_name / "half",
        work_dir / "corrupt" / MODEL.folder_name / "wrong",
        work_dir / "trash" / "0123" / "refs" / "main",
    ]
    for path in waste:
        write(path, b"1234567")
    later(2 * DAY)
    assert hubmirror(data, "gc").stdout.splitlines()[-1] == "35 B freed."
    assert names_below(data) == before
    assert not [path for path in waste if path.exists()]


def test_blobs_of_a_damaged_record_stay(data: Path) -> None:
    write(repo_dir(data / "hub") / "hubmirror" / f"{OLDER}.json", b"{")
    hubmirror(data, "gc")
    assert blob(data / "hub", OLD, "config.json").exists()


def test_a_pull_that_is_at_work_is_left_alone(data: Path) -> None:
    """It has a file half in staging, and a blob whose record is not written yet."""
    cache = Cache.of(data / "hub")
    under_way = cache.staging(TWIN) / "half"
    ready = repo_dir(data / "hub", TWIN) / "blobs" / ("a" * 64)
    write(under_way, b"half")
    write(ready, b"whole")
    gc = threading.Thread(target=lambda: collect(cache, waste(cache)), daemon=True)
    with cache.lock(TWIN, lambda: None):
        gc.start()
        gc.join(5)
        waited = gc.is_alive()
        assert under_way.exists()
        assert ready.exists()
    gc.join(5)
    assert not waited
    assert not blob(data / "hub", OLD, "config.json").exists()  # gc did the rest


def test_what_was_waste_a_moment_ago_and_is_none_now_stays(data: Path) -> None:
    """A pull has begun, and another has moved `main` back."""
    cache = Cache.of(data / "hub")
    under_way = cache.staging(TWIN) / "half"
    write(under_way, b"half")
    found = waste(cache)
    assert {one.path for one in found} >= {under_way.parent}
    make_managed(data / "hub", OLD)
    with cache.lock(TWIN, lambda: None):
        collect(cache, found)
    assert under_way.exists()
    hubmirror(data, "verify")
    assert blob(data / "hub", OLD, "config.json").exists()
