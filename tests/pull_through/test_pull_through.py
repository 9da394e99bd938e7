"""What the folder lacks is fetched from upstream, served while it arrives, and kept."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import orjson
import pytest
from huggingface_hub import snapshot_download

from mirror.core.record import Record
from mirror.pull_through.fill_map import BLOCK
from tests.hub import HubSimulator, flipped, refused, reset, slow, stalled, truncated
from tests.pull_through.conftest import StartMirror
from tests.recording import hubmirror, recorded
from tests.servers import Command
from tests.waiting import until

LARGE = Random("large").randbytes(5 * BLOCK // 2)
FILES = {"config.json": b"{}", "model.safetensors": LARGE, "deep/er/a b.txt": b"text", "empty": b""}
FILE = "/Org/Model/resolve/main/model.safetensors"


@pytest.fixture(autouse=True)
def repo(hub: HubSimulator) -> str:
    """The commit of `main` of Org/Model upstream."""
    repo = hub.repo("Org/Model")
    repo.info = {"private": False, "gated": False, "downloads": 7}
    return repo.commit(FILES)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def record_of(data: Path, commit: str, folder: str = "models--Org--Model") -> Record:
    path = data / "hub" / folder / "hubmirror" / f"{commit}.json"
    until(path.exists)
    return Record.parse(path.read_bytes())


def get(mirror: Command, path: str, **options: Any) -> httpx2.Response:
    return httpx2.get(f"{mirror.url}{path}", timeout=60, **options)


def filler_of(data: Path) -> int:
    """The id of the process that asks upstream for all mirrors on the data folder."""
    body = (data / "hub/.hubmirror/filler.lock").read_bytes()
    return int(orjson.loads(body)["pid"]) if body else 0


def kill_filler(data: Path) -> None:
    """Kill it, and wait until another one has taken over."""
    killed = filler_of(data)
    os.kill(killed, signal.SIGKILL)
    until(lambda: filler_of(data) not in (0, killed))


# Metadata


def test_a_head_a_tree_and_an_info_need_no_byte(
    mirror: Command, hub: HubSimulator, repo: str
) -> None:
    head = httpx2.head(f"{mirror.url}{FILE}", timeout=60)
    assert head.status_code == 200
    assert head.headers["content-length"] == str(len(LARGE))
    assert head.headers["x-repo-commit"] == repo
    assert head.headers["x-linked-etag"] == f'"{sha256(LARGE)}"'
    tree = get(mirror, "/api/models/Org/Model/tree/main?recursive=true").json()
    assert {row["path"] for row in tree if row["type"] == "file"} == set(FILES)
    info = get(mirror, "/api/models/Org/Model").json()
    assert (info["sha"], info["downloads"]) == (repo, 7)
    assert not hub.count("GET /Org/Model/resolve")


def test_a_branch_is_resolved_once_for_all_processes(
    start: StartMirror, data: Path, upstream: str, hub: HubSimulator
) -> None:
    mirror = start(data, upstream, "--workers", "2", "--fresh", "600")
    with ThreadPoolExecutor(16) as pool:
        heads = list(pool.map(lambda _: httpx2.head(f"{mirror.url}{FILE}", timeout=60), range(64)))
    assert {head.status_code for head in heads} == {200}
    assert hub.count("/api/models/Org/Model/revision/main") == 1


def test_a_branch_that_moves_is_followed(mirror: Command, hub: HubSimulator, repo: str) -> None:
    assert get(mirror, "/api/models/Org/Model").json()["sha"] == repo
    moved = hub.repo("Org/Model").commit({"config.json": b"[]"})
    until(lambda: get(mirror, "/api/models/Org/Model").json()["sha"] == moved)
    until(lambda: get(mirror, "/Org/Model/resolve/main/config.json").content == b"[]")
    assert get(mirror, f"/Org/Model/resolve/{repo}/config.json").content == b"{}"


def test_what_upstream_does_not_have(mirror: Command, hub: HubSimulator) -> None:
    for _ in range(3):
        unknown = get(mirror, "/api/models/Org/None")
        assert (unknown.status_code, unknown.headers["x-error-code"]) == (404, "RepoNotFound")
    assert hub.count("Org/None") == 1
    revision = get(mirror, "/api/models/Org/Model/revision/v9")
    assert (revision.status_code, revision.headers["x-error-code"]) == (404, "RevisionNotFound")
    for number in range(100):
        absent = get(mirror, f"/Org/Model/resolve/main/absent{number}")
        assert (absent.status_code, absent.headers["x-error-code"]) == (404, "EntryNotFound")
        assert "x-repo-commit" in absent.headers
    assert not hub.count("absent")


@pytest.mark.parametrize(("status", "answer"), [(500, 502), (503, 502), (429, 503)])
def test_an_outage_upstream_is_not_an_absence(
    mirror: Command, hub: HubSimulator, status: int, answer: int
) -> None:
    hub.fail("Org/Model", refused(status, retry_after="1"), times=1)
    found = get(mirror, FILE)
    assert found.status_code == answer
    assert "x-repo-commit" not in found.headers
    until(lambda: get(mirror, "/Org/Model/resolve/main/config.json").status_code == 200)


def test_with_upstream_gone_the_last_known_commit_answers(
    mirror: Command, hub: HubSimulator, repo: str
) -> None:
    assert get(mirror, FILE).content == LARGE
    hub.fault = refused(500)(None, None)  # type: ignore[arg-type]
    time.sleep(1.5)
    head = httpx2.head(f"{mirror.url}{FILE}", timeout=60)
    assert (head.status_code, head.headers["x-repo-commit"]) == (200, repo)
    until(lambda: "x-hubmirror-stale" in httpx2.head(f"{mirror.url}{FILE}", timeout=60).headers)
    assert get(mirror, FILE).content == LARGE
    missing = get(mirror, "/Org/Model/resolve/main/config.json")
    assert missing.status_code in (502, 503, 504)
    assert "x-repo-commit" not in missing.headers


# Bytes


def test_a_real_client_fills_the_mirror(
    mirror: Command, hub: HubSimulator, data: Path, tmp_path: Path, repo: str
) -> None:
    folder = snapshot_download("Org/Model", endpoint=mirror.url, cache_dir=tmp_path / "client")
    assert {path: (Path(folder) / path).read_bytes() for path in FILES} == FILES
    until(lambda: len(record_of(data, repo).files) == len(FILES))
    record = record_of(data, repo)
    assert (record.refs, dict(record.left_out)) == (("refs/heads/main",), {})
    assert sum(hub.sent.values()) == sum(map(len, FILES.values()))
    hub.fault = refused(500)(None, None)  # type: ignore[arg-type]
    again = snapshot_download("Org/Model", endpoint=mirror.url, cache_dir=tmp_path / "again")
    assert (Path(again) / "model.safetensors").read_bytes() == LARGE


def test_many_cold_clients_and_two_mirrors_fetch_each_byte_once(
    mirror: Command, start: StartMirror, data: Path, upstream: str, hub: HubSimulator
) -> None:
    second = start(data, upstream, "--workers", "1")

    def fetch(number: int) -> str:
        url = (mirror, second)[number % 2].url
        return sha256(httpx2.get(f"{url}{FILE}", timeout=120).content)

    hub.fail("GET /Org/Model/resolve", slow(0.002), times=1000)
    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(fetch, range(32))) == {sha256(LARGE)}
    assert hub.sent["model.safetensors"] == len(LARGE)


def test_the_block_that_a_client_waits_for_comes_first(mirror: Command, hub: HubSimulator) -> None:
    hub.fail("GET /Org/Model/resolve", slow(0.02), times=1000)  # 3 MB/s a connection
    begun = time.monotonic()
    with httpx2.stream("GET", f"{mirror.url}{FILE}", timeout=60) as answer:
        first = next(answer.iter_raw(1000))
        assert first == LARGE[:1000]
        assert time.monotonic() - begun < 4  # the whole file takes 5 s at least
    start = 2 * BLOCK + 100
    part = get(mirror, FILE, headers={"range": f"bytes={start}-{start + 99}"})
    assert (part.status_code, part.content) == (206, LARGE[start : start + 100])


@pytest.mark.parametrize(
    "fault", [truncated(100_000), reset(100_000), stalled(0.5, 1000), refused(500), refused(429)]
)
def test_a_fault_of_a_connection_is_mended(mirror: Command, hub: HubSimulator, fault: Any) -> None:
    hub.fail("GET /Org/Model/resolve", fault, times=2)
    assert sha256(get(mirror, FILE).content) == sha256(LARGE)


def test_wrong_bytes_are_never_completed_and_never_kept(
    mirror: Command, hub: HubSimulator, data: Path
) -> None:
    hub.fail("GET /Org/Model/resolve/.*model.safetensors", flipped(7), times=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        get(mirror, FILE)
    again = get(mirror, FILE, headers={"range": "bytes=1000-"})
    assert again.status_code == 503
    assert get(mirror, "/Org/Model/resolve/main/config.json").content == b"{}"
    assert not list((data / "hub").glob(f"**/{sha256(LARGE)}*"))
    log = (data.parent / "log").read_text()
    assert "sent wrong bytes" in log
    assert f"not {sha256(LARGE)}" in log


def test_a_killed_filler_is_replaced_and_goes_on(
    mirror: Command, hub: HubSimulator, data: Path
) -> None:
    hub.fail("GET /Org/Model/resolve", slow(0.01), times=1000)
    with ThreadPoolExecutor(1) as pool:
        body = pool.submit(lambda: get(mirror, FILE).content)
        map_path = next_map(data)
        for _ in range(3):
            time.sleep(0.7)
            kill_filler(data)
        assert sha256(body.result()) == sha256(LARGE)
    assert not map_path.exists()
    # Only the pieces that were on their way to the killed process came twice.
    assert hub.sent["model.safetensors"] < 3 * len(LARGE)


def test_what_a_killed_filler_did_not_publish_is_published_by_the_next(
    mirror: Command, data: Path, repo: str
) -> None:
    assert get(mirror, "/Org/Model/resolve/main/config.json").content == b"{}"
    kill_filler(data)
    until(lambda: "config.json" in record_of(data, repo).files)


def next_map(data: Path) -> Path:
    fills = data / "hub/.hubmirror/fills"
    until(lambda: bool(list(fills.glob("*/*.map"))))
    return next(fills.glob("*/*.map"))


def test_a_killed_server_goes_on_from_the_blocks_that_are_here(
    start: StartMirror, data: Path, upstream: str, hub: HubSimulator
) -> None:
    mirror = start(data, upstream, "--workers", "1")
    hub.fail("GET /Org/Model/resolve", slow(0.01), times=1000)
    threading.Thread(
        target=lambda: subprocess.run(
            ["curl", "-s", "-o", os.devnull, f"{mirror.url}{FILE}"], check=False
        )
    ).start()
    next_map(data)
    time.sleep(1)
    mirror.process.kill()
    os.kill(filler_of(data), signal.SIGKILL)
    mirror.process.wait()
    hub.faults.clear()
    hub.sent.clear()
    assert sha256(get(start(data, upstream), FILE).content) == sha256(LARGE)
    assert hub.sent["model.safetensors"] < len(LARGE)


def test_a_second_mirror_chained_to_the_first(
    mirror: Command, start: StartMirror, tmp_path: Path, hub: HubSimulator
) -> None:
    (tmp_path / "rack").mkdir()
    rack = start(tmp_path / "rack", mirror.url, "--fresh", "1", "--workers", "1")
    assert sha256(get(rack, FILE).content) == sha256(LARGE)
    mirror.process.terminate()
    mirror.process.wait(20)
    assert sha256(get(rack, FILE).content) == sha256(LARGE)


def test_metrics_say_what_upstream_sent(mirror: Command) -> None:
    assert sha256(get(mirror, FILE).content) == sha256(LARGE)

    def values() -> dict[str, float]:
        lines = get(mirror, "/metrics").text.splitlines()
        return {line.split(" ")[0]: float(line.split(" ")[-1]) for line in lines if line[0] != "#"}

    until(lambda: values().get("hubmirror_upstream_received_bytes_total") == len(LARGE))
    assert values()['hubmirror_upstream_requests_total{outcome="resolved"}'] >= 1


def test_a_command_is_recorded_through_upstream(
    upstream: str, data: Path, tmp_path: Path, repo: str
) -> None:
    """What the command asks for is fetched, recorded, and complete without upstream."""
    download = [str(Path(sys.executable).with_name("hf")), "download", "--quiet", "Org/Model"]
    hubmirror(tmp_path, "record", "--upstream", upstream, "--", *download)
    assert recorded(tmp_path) == [{"repo_id": "Org/Model", "revision": "main", "commit_hash": repo}]
    assert "Everything is here" in hubmirror(tmp_path, "rehearse", "recorded.toml")
