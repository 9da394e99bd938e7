"""The state of pulls, as other processes read it: real processes, killed and alive."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mirror.core.repo import Repo
from mirror.sources.hf_cache import HfCache
from mirror.sources.pull_status import PullState, RunningPull, read_pull, read_pulls
from tests.conftest import Serve
from tests.folders import MODEL, Content, make_managed, write
from tests.waiting import until

COMMIT = "ab" * 20
_PULL = """
import sys, time
from pathlib import Path
from mirror.core.repo import Repo
from mirror.sources.pull_status import RunningPull

with RunningPull(Path(sys.argv[1]), Repo.parse("Org/Model"), "main", "ab" * 20, 1000) as pull:
    pull.advance(400)
    time.sleep(600)
"""


@pytest.fixture
def process(hub: Path) -> Any:
    """A process that pulls, and has got 400 of 1000 bytes."""
    running = subprocess.Popen([sys.executable, "-c", _PULL, str(hub)])
    try:
        until(lambda: bool((pull := read_pull(hub, MODEL)) and pull.received))
        yield running
    finally:
        running.kill()
        running.wait()


def test_a_running_pull_is_seen_by_another_process(
    hub: Path, process: subprocess.Popen[bytes]
) -> None:
    [pull] = read_pulls(hub)
    assert (pull.repo, pull.revision, pull.commit_hash) == (MODEL, "main", COMMIT)
    assert (pull.state, pull.received, pull.size) == (PullState.RUNNING, 400, 1000)
    assert (pull.pid, pull.host) == (process.pid, socket.gethostname())
    assert pull.started_at is not None
    assert pull.rate > 0
    assert f"400 B of 1.0 kB, {pull.rate:.0f} B/s" in pull.text
    assert f"by process {process.pid} on {socket.gethostname()}" in pull.text


def test_the_state_is_small_and_is_replaced(hub: Path, process: subprocess.Popen[bytes]) -> None:
    [file] = (hub / ".hubmirror" / "pulls").iterdir()
    assert file.stat().st_size < 1000
    first = file.stat().st_ino
    until(lambda: file.stat().st_ino != first)
    assert list(file.parent.iterdir()) == [file]


def test_a_killed_pull_is_stopped_at_once(hub: Path, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    [pull] = read_pulls(hub)
    assert (pull.state, pull.received) == (PullState.STOPPED, 400)
    assert "Run `hubmirror pull Org/Model` again" in pull.text


def test_another_process_with_the_same_pid_is_not_the_pull(
    hub: Path, process: subprocess.Popen[bytes]
) -> None:
    process.kill()
    process.wait()
    _change(hub, pid=os.getpid())
    assert read_pulls(hub)[0].state is PullState.STOPPED


def test_a_pull_of_another_host_runs_as_long_as_it_writes(
    hub: Path, process: subprocess.Popen[bytes]
) -> None:
    process.kill()
    process.wait()
    _change(hub, process="other-boot pid:[1] 7 99")
    assert read_pulls(hub)[0].state is PullState.RUNNING
    _change(hub, updated_at="2026-01-01T00:00:00+00:00")
    assert read_pulls(hub)[0].state is PullState.STOPPED


def test_a_published_pull_leaves_no_state(hub: Path) -> None:
    with RunningPull(hub, MODEL, "main", COMMIT, 10):
        assert read_pulls(hub)
    assert read_pulls(hub) == []


def test_a_failed_pull_keeps_its_cause(hub: Path) -> None:
    with pytest.raises(OSError, match="full"), RunningPull(hub, MODEL, "v1", COMMIT, 10):
        raise OSError(28, "The disk is full")
    [pull] = read_pulls(hub)
    assert pull.state is PullState.FAILED
    assert pull.text == "the pull failed: a file cannot be written: The disk is full."


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"pid": 1}', b"\xff", b"x" * 100_000,
        b'{"updated_at": 5}', b"[" * 10_000,
    ],
)  # fmt: skip
def test_a_damaged_state_is_that_of_a_stopped_pull(hub: Path, body: bytes) -> None:
    write(hub / ".hubmirror" / "pulls" / "models--Org--Model.json", body)
    [pull] = read_pulls(hub)
    assert (pull.repo, pull.state, pull.size) == (MODEL, PullState.STOPPED, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pid", -1), ("pid", "1"), ("pid", 1.5), ("pid", 2**63), ("size", None),
        ("received", 10**20), ("rate", "1"), ("rate", 1e300), ("revision", 7),
        ("revision", "a\nb"), ("host", "x" * 5000), ("started_at", "yesterday"),
        ("updated_at", "9999-99-99"), ("error", {}), ("process", ["a"]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_that_of_a_stopped_pull(hub: Path, name: str, value: object) -> None:
    file = hub / ".hubmirror" / "pulls" / "models--Org--Model.json"
    with RunningPull(hub, MODEL, "main", COMMIT, 1000):
        body = file.read_bytes()
    write(file, body)
    assert read_pulls(hub)[0].state is PullState.RUNNING
    _change(hub, **{name: value})
    [pull] = read_pulls(hub)
    assert (pull.state, pull.size) == (PullState.STOPPED, 0)


def test_other_names_are_no_pulls(hub: Path) -> None:
    folder = hub / ".hubmirror" / "pulls"
    write(folder / ".models--Org--Model.json.x1y2", b"{}")
    write(folder / "Thumbs.db", b"{}")
    os.mkfifo(folder / "models--a--b.json")
    assert [(pull.repo, pull.state) for pull in read_pulls(hub)] == [
        (Repo.parse("a/b"), PullState.STOPPED)
    ]


def test_a_disk_that_takes_no_file_does_not_stop_a_pull(hub: Path) -> None:
    write(hub / ".hubmirror", b"a file where the folder should be")
    with RunningPull(hub, MODEL, "main", COMMIT, 10) as pull:
        pull.advance(10)
    assert read_pulls(hub) == []


def test_a_client_is_answered_that_the_repository_is_being_pulled(
    hub: Path, process: subprocess.Popen[bytes], managed: HfCache, serve: Serve
) -> None:
    (hub / MODEL.folder_name).mkdir()
    client = serve(managed)
    for path in ("/api/models/Org/Model", "/Org/Model/resolve/main/config.json"):
        answer = client.get(path)
        assert answer.status_code == 503
        text = answer.headers["x-error-message"]
        assert "is being pulled into this mirror: 400 B of 1.0 kB have arrived" in text
        assert str(process.pid) not in text
        assert str(hub) not in text
    assert managed.unrecorded() == []


def test_a_commit_that_is_being_pulled_is_not_absent(
    hub: Path, process: subprocess.Popen[bytes], managed: HfCache, serve: Serve
) -> None:
    make_managed(hub)
    client = serve(managed)
    assert client.get(f"/api/models/Org/Model/revision/{COMMIT}").status_code == 503
    assert client.get("/api/models/Org/Model/revision/main").json()["sha"] == Content().commit_hash
    assert client.get("/api/models/Org/Model/revision/other").status_code == 404
    process.kill()
    process.wait()
    assert client.get(f"/api/models/Org/Model/revision/{COMMIT}").status_code == 404


def _change(hub: Path, **fields: object) -> None:
    path = hub / ".hubmirror" / "pulls" / "models--Org--Model.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))
