"""Pulls from a hub that fails: retries, error messages, and removal of wrong bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mirror.store.progress import FileAdvanced
from tests.filling import FILES, MODEL, WEIGHTS, Filling
from tests.folders import entry, write
from tests.hub import (
    EVER,
    Effect,
    HubSimulator,
    flipped,
    refused,
    reset,
    slow,
    stalled,
    truncated,
)

BODY = FILES[WEIGHTS]
GET = f"GET .*/{WEIGHTS}"
OTHER = "org/other"
PASSING = [
    refused(500),
    refused(503),
    truncated(0),
    truncated(100_000),
    reset(0),
    reset(100_000),
    stalled(0.5),
    stalled(0.5, 100_000),
]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set `HF_HUB_DOWNLOAD_TIMEOUT` of huggingface_hub to 0.2 s."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)


@pytest.fixture
def small_steps(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub writes blocks of 10 kB instead of 10 MB."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("effect", PASSING)
def test_temporary_failures_are_retried(
    simulator: HubSimulator, filling: Filling, effect: Effect
) -> None:
    simulator.fail(f"GET .*/({WEIGHTS}|vocab.txt|config.json)", effect, 4)
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == FILES


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_delays_a_head_request(
    simulator: HubSimulator, filling: Filling, status: int
) -> None:
    simulator.fail(f"HEAD .*/{WEIGHTS}", refused(status, retry_after="0"), 2)
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == FILES


@pytest.mark.parametrize("where", ["/tree/", GET])
def test_a_rate_limit_is_respected(simulator: HubSimulator, filling: Filling, where: str) -> None:
    simulator.fail(where, refused(429, retry_after="0"), 1)
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == FILES


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("effect", [truncated(100_000), stalled(1.5, 100_000)])
def test_a_broken_download_is_resumed(
    simulator: HubSimulator, filling: Filling, effect: Effect
) -> None:
    ranges: list[str] = []

    def broken(request: Request, answer: Response) -> Response:
        ranges.append(request.headers.get("range", ""))
        return effect(request, answer) if len(ranges) == 1 else answer

    simulator.fail(GET, broken, EVER)
    filling.pull(MODEL)
    assert ranges[0] == ""
    assert ranges[1] == "bytes=100000-"


def test_a_flipped_bit_is_fetched_again(simulator: HubSimulator, filling: Filling) -> None:
    simulator.fail(GET, flipped(len(BODY) // 2))
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == FILES
    assert f"{WEIGHTS} is corrupt" in filling.notes
    assert "It is fetched again." in filling.notes
    assert simulator.count(GET) == 2


@pytest.mark.parametrize("path", [WEIGHTS, "config.json", "vocab.txt"])
def test_permanently_wrong_bytes_are_removed(
    simulator: HubSimulator, filling: Filling, path: str
) -> None:
    simulator.fail(f"GET .*/{path}", flipped(), EVER)
    (failed,) = filling.pull(MODEL).failed
    assert f"{path} is corrupt" in failed
    assert f"{filling.url} sent wrong bytes 3 times" in failed
    folder = filling.folder()
    etag = entry(path, FILES[path]).etag
    assert not (folder.blobs / etag).exists()
    assert not (folder.path / "hubmirror").exists()
    assert not (folder.path / "refs").exists()
    assert not list((filling.hub / ".hubmirror" / "staging").rglob(f"blobs/{etag}"))
    simulator.faults.clear()
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == FILES


def test_wrong_bytes_of_a_new_revision_keep_the_old_revision(
    simulator: HubSimulator, filling: Filling
) -> None:
    filling.pull(MODEL)
    simulator.repo(MODEL).commit({**FILES, "new.bin": b"new"})
    simulator.fail("GET .*/new.bin", flipped(), EVER)
    assert filling.pull(MODEL).failed != []
    assert filling.shown() == FILES


@pytest.mark.parametrize("size", [len(BODY) + 1, 10])
def test_a_size_that_differs_from_the_tree(
    simulator: HubSimulator, filling: Filling, size: int
) -> None:
    simulator.repo(MODEL).claimed_sizes[WEIGHTS] = size
    assert filling.pull(MODEL).failed != []
    assert not filling.folder().recorded()
    assert simulator.count(GET) == 0


@pytest.mark.parametrize("where", ["/revision/", GET])
def test_a_permanent_failure_does_not_stop_other_pulls(
    simulator: HubSimulator, filling: Filling, where: str
) -> None:
    simulator.repo(OTHER).commit({"a.txt": b"a"})
    simulator.fail(where.replace("/revision/", "/org/model/revision/"), refused(500), EVER)
    (failed,) = filling.pull(MODEL, OTHER).failed
    assert failed.startswith(f"{MODEL} at ")
    assert f"cannot be pulled from {filling.url}: status 500." in failed
    assert filling.shown(repo=OTHER) == {"a.txt": b"a"}
    assert not filling.folder().recorded()


def test_a_permanent_failure_keeps_finished_files(
    simulator: HubSimulator, filling: Filling
) -> None:
    simulator.fail(GET, refused(500), EVER)
    assert filling.pull(MODEL).failed != []
    simulator.faults.clear()
    simulator.requests.clear()
    assert filling.pull(MODEL).failed == []
    assert simulator.count("GET .*/resolve/") == simulator.count(GET) == 1


def test_a_listed_file_that_the_hub_does_not_have(
    simulator: HubSimulator, filling: Filling
) -> None:
    gone = refused(404, x_error_code="EntryNotFound", x_repo_commit="0" * 40)
    simulator.fail(f"/resolve/.*/{WEIGHTS}", gone, EVER)
    (failed,) = filling.pull(MODEL).failed
    assert "lists a file that it does not have" in failed


@pytest.mark.usefixtures("hasty")
def test_a_hub_without_a_response_times_out(simulator: HubSimulator, filling: Filling) -> None:
    simulator.repo(MODEL).refs["other"] = simulator.repo(MODEL).refs["main"]
    questions = "/revision/", "/tree/", "/model/refs"
    for where in ("/-/identity", *questions):
        simulator.fail(where, stalled(3))
    assert filling.pull(f"{MODEL}@other").failed == []
    assert [simulator.count(where) for where in questions] == [2, 2, 2]


def test_an_invalid_digest_is_refused(simulator: HubSimulator, filling: Filling) -> None:
    filling.pull(MODEL)
    row = {"type": "file", "path": "a.txt", "size": 40, "oid": "../refs/main"}
    simulator.repo(MODEL).commit({"a.txt": b"a"})
    simulator.fail("/tree/", lambda _, __: JSONResponse([row]))
    assert filling.pull(MODEL).failed != []
    assert not list(filling.folder().path.glob("snapshots/*/a.txt"))


def test_staged_files_of_a_killed_pull_are_used(simulator: HubSimulator, filling: Filling) -> None:
    blob = filling.hub / ".hubmirror/staging/models--org--model" / entry(WEIGHTS, BODY).etag
    blob.parent.mkdir(parents=True)
    blob.write_bytes(BODY)
    blob.with_name(f"{blob.name}.incomplete").write_bytes(BODY[:1000])
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == FILES
    assert simulator.count(GET) == 0
    assert not list(blob.parent.parent.iterdir())


def test_staged_files_of_a_killed_pull_are_checked(
    simulator: HubSimulator, filling: Filling
) -> None:
    blob = filling.hub / ".hubmirror/staging/models--org--model" / entry(WEIGHTS, BODY).etag
    blob.parent.mkdir(parents=True)
    blob.write_bytes(BODY[:-1] + b"x")
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == FILES


def test_partial_files_of_killed_pulls_are_removed(
    simulator: HubSimulator, filling: Filling
) -> None:
    staging = filling.hub / ".hubmirror/staging/models--org--model"
    left = staging / f"{entry(WEIGHTS, BODY).etag}.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(BODY[:1000])
    simulator.fail("GET .*vocab.txt", refused(500), EVER)
    assert filling.pull(MODEL).failed != []
    assert not left.exists()


def test_a_damaged_record_is_replaced(simulator: HubSimulator, filling: Filling) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    filling.pull(MODEL)
    requests = simulator.count("GET .*/resolve/")
    filling.folder().record(commit).write_bytes(b"{")
    filling.pull(MODEL)
    assert filling.shown() == FILES
    assert simulator.count("GET .*/resolve/") == requests


def test_a_blob_that_was_truncated_is_fetched_again(
    simulator: HubSimulator, filling: Filling
) -> None:
    filling.pull(MODEL)
    blob = filling.folder().blobs / entry(WEIGHTS, BODY).etag
    blob.write_bytes(BODY[:-1])
    filling.pull(MODEL)
    assert blob.read_bytes() == BODY
    assert simulator.count(GET) == 2


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    "effect",
    [flipped(), truncated(100_000), reset(100_000)],
)
def test_progress_counts_each_byte_once(
    simulator: HubSimulator, filling: Filling, effect: Effect
) -> None:
    simulator.fail(GET, effect)
    filling.pull(MODEL)
    counts = [
        event.count
        for event in filling.events
        if isinstance(event, FileAdvanced) and event.path == WEIGHTS
    ]
    assert sum(counts) == len(BODY)


def test_clients_refuse_a_partly_linked_revision(simulator: HubSimulator, filling: Filling) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    in_the_way = filling.folder().snapshot(commit) / WEIGHTS
    write(in_the_way / "a.txt", b"somebody's own")
    assert "Directory not empty" in filling.pull(MODEL).failed[0]
    with pytest.raises(IncompleteSnapshotError):
        snapshot_download(MODEL, revision=commit, cache_dir=filling.hub, local_files_only=True)
    shutil.rmtree(in_the_way)
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == FILES


def test_clients_see_the_old_files_of_a_partly_widened_revision(
    simulator: HubSimulator, filling: Filling
) -> None:
    filling.pull(MODEL, include=["*.json"])
    in_the_way = filling.folder().snapshot(simulator.repo(MODEL).refs["main"]) / WEIGHTS
    write(in_the_way / "a.txt", b"somebody's own")
    assert "Directory not empty" in filling.pull(MODEL).failed[0]
    folder = Path(snapshot_download(MODEL, cache_dir=filling.hub, local_files_only=True))
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    assert filling.shown().keys() == {"config.json"}


def test_a_failure_waits_for_other_downloads(simulator: HubSimulator, filling: Filling) -> None:
    simulator.repo(MODEL).refs["refs/pr/1"] = simulator.repo(MODEL).refs["main"]
    simulator.fail("GET .*/config.json", refused(400), EVER)
    simulator.fail(GET, slow(0.1), EVER)
    assert len(filling.pull(MODEL, f"{MODEL}@refs/pr/1").failed) == 2
    assert simulator.count(GET) == 1
