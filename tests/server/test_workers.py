"""Several processes on one socket: they start, stop, crash and are replaced together."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.folders import Content, make_managed
from tests.servers import Command, run_command
from tests.waiting import until

BODY = os.urandom(1 << 20) * 64
PATH = "/Org/Model/resolve/main/model.bin"
GRACE = 10


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


def _answers(command: Command) -> bool:
    try:
        return httpx2.get(f"{command.url}/healthz").status_code == 200
    except httpx2.TransportError:
        return False


def test_a_crashed_worker_is_replaced(command: Command) -> None:
    before = _workers(command)
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(_workers(command)) == 2 and _workers(command) != before)
    until(lambda: _answers(command))


def test_workers_that_cannot_start_are_tried_less_and_less_often(tmp_path: Path) -> None:
    """The data folder is away: each try is one line, and the worker that lives answers 503."""
    make_managed(tmp_path / "data" / "hub")
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stream,
        run_command(tmp_path, "--workers", "2", errors=stream) as command,
    ):
        until(lambda: len(_workers(command)) == 2)
        time.sleep(2)  # both have started
        (tmp_path / "data").rename(tmp_path / "away")
        seen = _workers(command)
        os.kill(min(seen), signal.SIGKILL)
        until(lambda: "A worker cannot start" in errors.read_text(), 60)
        tried = set()
        for _ in range(100):
            tried |= _workers(command) - seen
            time.sleep(0.1)
        assert len(tried) < 7
        assert "Traceback" not in errors.read_text()
        assert "The data folder data is away" in errors.read_text()
        assert _status(command, "/api/models/Org/Model") in (404, 503)
        (tmp_path / "away").rename(tmp_path / "data")
        until(lambda: len(_workers(command)) == 2, 90)
        until(lambda: _answers(command))


def _status(command: Command, path: str) -> int:
    return httpx2.get(f"{command.url}{path}", timeout=20).status_code


def test_a_rolling_restart_drops_no_download(command: Command) -> None:
    before = _workers(command)
    with httpx2.stream("GET", command.url + PATH) as answer:
        body = bytearray()
        for chunk in answer.iter_raw(1 << 20):
            if not body:
                command.process.send_signal(signal.SIGHUP)
                until(lambda: len(_workers(command) - before) == 2)
                assert _answers(command)
            body += chunk
    assert body == BODY
    until(lambda: not _workers(command) & before)


def test_a_stop_ends_every_process(command: Command) -> None:
    pids = [command.process.pid, *_workers(command)]
    command.process.terminate()
    assert command.process.wait(10) in (0, -signal.SIGTERM)
    assert not [pid for pid in pids[1:] if Path(f"/proc/{pid}").exists()]


def test_the_token_is_in_no_command_line_and_no_environment(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    (tmp_path / "token").write_text("hf_a_token_of_this_mirror\n")
    with run_command(tmp_path, "--workers", "2", "--token-file", "token") as command:
        assert httpx2.get(f"{command.url}/api/models").status_code == 401
        children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children")
        for pid in (str(command.process.pid), *children.read_text().split()):
            for name in ("cmdline", "environ"):
                assert b"hf_a_token" not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_metrics_are_those_of_all_workers(command: Command) -> None:
    for _ in range(40):
        httpx2.get(f"{command.url}/api/whoami-v2")
    metrics = httpx2.get(f"{command.url}/metrics").text
    (count,) = re.findall(r'hubmirror_requests_total{.*route="whoami-v2".*} (\d+)', metrics)
    assert int(count) == 40
    # The count is that of the last look, which is made in the background.
    visible = 'hubmirror_revisions{state="visible"} 1.0'
    until(lambda: visible in httpx2.get(f"{command.url}/metrics").text)


def test_one_process_when_one_is_asked_for(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    with run_command(tmp_path, "--workers", "1") as command:
        assert _workers(command) == set()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that servers of the test use for what is temporary."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def read_only(tmp_path: Path, temporary: Path) -> Sequence[str]:
    """Makes the data folder read-only; the command under which a server cannot write to it, not
    even as root."""
    make_managed(tmp_path / "data" / "hub", Content({"model.bin": BODY}))
    (tmp_path / "data").chmod(0o555)
    if os.getuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root writes to every folder, and setpriv (util-linux) is not installed")
    return "setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"


def _is_free(command: Command) -> bool:
    """Whether another server could listen on the port."""
    address = urlsplit(command.url)
    with suppress(OSError), socket.create_server((address.hostname or "", address.port or 0)):
        return True
    return False


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, even if nobody has asked for its exit status."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def _until_nothing_is_left(command: Command, workers: set[int], temporary: Path) -> None:
    started = time.monotonic()
    until(lambda: all(map(_is_gone, workers)))
    until(lambda: _is_free(command))
    assert list(temporary.iterdir()) == []
    assert time.monotonic() - started < GRACE / 2


def test_workers_stop_when_the_supervisor_is_killed(temporary: Path, command: Command) -> None:
    workers = _workers(command)
    assert [path.name[:18] for path in temporary.iterdir()] == ["hubmirror-metrics-"]
    command.process.kill()
    command.process.wait(10)
    _until_nothing_is_left(command, workers, temporary)


def test_workers_that_have_just_started_stop_when_the_supervisor_is_killed(
    temporary: Path, command: Command
) -> None:
    before = _workers(command)
    command.process.send_signal(signal.SIGHUP)
    until(lambda: bool(_workers(command) - before))
    workers = _workers(command) | before
    command.process.kill()
    command.process.wait(10)
    _until_nothing_is_left(command, workers, temporary)


def test_a_download_is_finished_when_the_supervisor_is_killed(
    temporary: Path, command: Command
) -> None:
    """No new connection is taken meanwhile."""
    workers = _workers(command)
    with httpx2.stream("GET", command.url + PATH) as answer:
        body = bytearray()
        for chunk in answer.iter_raw(1 << 20):
            if not body:
                command.process.kill()
                command.process.wait(10)
                until(lambda: _is_free(command))
            body += chunk
    assert body == BODY
    _until_nothing_is_left(command, workers, temporary)


def test_a_download_that_stands_still_is_cut_when_the_supervisor_is_killed(
    temporary: Path, command: Command
) -> None:
    workers = _workers(command)
    with httpx2.stream("GET", command.url + PATH, timeout=30) as answer:
        pieces = answer.iter_raw(1 << 10)
        next(pieces)
        command.process.kill()
        command.process.wait(10)
        killed = time.monotonic()
        until(lambda: all(map(_is_gone, workers)))
        assert GRACE - 1 < time.monotonic() - killed < GRACE + 5
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_leaves_nothing_in_the_temporary_folder(
    tmp_path: Path, temporary: Path, read_only: Sequence[str], workers: str
) -> None:
    with run_command(tmp_path, "--workers", workers, under=read_only) as command:
        assert httpx2.get(f"{command.url}/api/models/Org/Model").status_code == 200
        assert len(list(temporary.iterdir())) == int(workers)
        command.process.terminate()
        command.process.wait(10)
        assert list(temporary.iterdir()) == []


def test_a_killed_supervisor_leaves_no_derived_facts(
    tmp_path: Path, temporary: Path, read_only: Sequence[str]
) -> None:
    with run_command(tmp_path, "--workers", "2", under=read_only) as command:
        workers = _workers(command)
        assert httpx2.get(f"{command.url}/api/models/Org/Model").status_code == 200
        assert len(list(temporary.iterdir())) == 2
        command.process.kill()
        command.process.wait(10)
        _until_nothing_is_left(command, workers, temporary)
