"""Several processes on one socket: they start, stop, crash and are replaced together."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.folders import Content, make_managed
from tests.servers import Command, run_command

BODY = os.urandom(1 << 20) * 64
PATH = "/Org/Model/resolve/main/model.bin"


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    make_managed(tmp_path / "data" / "hub", Content({"model.bin": BODY}))
    with run_command(tmp_path, "--workers", "2") as command:
        yield command


def _workers(command: Command) -> set[int]:
    """The children that run Python code of ours, without multiprocessing's own helper."""
    children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children")
    found = set()
    for pid in map(int, children.read_text().split()):
        with suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _answers(command: Command) -> bool:
    try:
        return httpx2.get(f"{command.url}/healthz").status_code == 200
    except httpx2.TransportError:
        return False


def test_a_crashed_worker_is_replaced(command: Command) -> None:
    before = _workers(command)
    os.kill(min(before), signal.SIGKILL)
    _until(lambda: len(_workers(command)) == 2 and _workers(command) != before)
    _until(lambda: _answers(command))


def test_a_rolling_restart_drops_no_download(command: Command) -> None:
    before = _workers(command)
    with httpx2.stream("GET", command.url + PATH) as answer:
        body = bytearray()
        for chunk in answer.iter_raw(1 << 20):
            if not body:
                command.process.send_signal(signal.SIGHUP)
                _until(lambda: len(_workers(command) - before) == 2)
                assert _answers(command)
            body += chunk
    assert body == BODY
    _until(lambda: not _workers(command) & before)


def test_a_stop_ends_every_process(command: Command) -> None:
    pids = [command.process.pid, *_workers(command)]
    command.process.terminate()
    assert command.process.wait(10) in (0, -signal.SIGTERM)
    assert not [pid for pid in pids[1:] if Path(f"/proc/{pid}").exists()]


def test_metrics_are_those_of_all_workers(command: Command) -> None:
    for _ in range(40):
        httpx2.get(f"{command.url}/api/whoami-v2")
    metrics = httpx2.get(f"{command.url}/metrics").text
    (count,) = re.findall(r'hubmirror_requests_total{.*route="whoami-v2".*} (\d+)', metrics)
    assert int(count) == 40
    assert 'hubmirror_revisions{state="visible"} 1.0' in metrics


def test_one_process_when_one_is_asked_for(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    with run_command(tmp_path, "--workers", "1") as command:
        assert _workers(command) == set()
