"""Downloads while workers are killed or replaced: what ends well is whole and right."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.folders import Content, make_managed
from tests.servers import Command, run_command
from tests.waiting import until

SIZE = 20_000_000
BODY = random.Random("kills").randbytes(1 << 20) * (SIZE // (1 << 20) + 1)
BODY = BODY[:SIZE]
SHA256 = hashlib.sha256(BODY).hexdigest()
PATH = "/Org/Model/resolve/main/model.bin"
DOWNLOADS = 60


@pytest.fixture
def served(tmp_path: Path) -> Path:
    make_managed(tmp_path / "data" / "hub", Content({"model.bin": BODY}))
    return tmp_path


@pytest.fixture
def command(served: Path) -> Iterator[Command]:
    with run_command(served, "--workers", "3") as command:
        yield command


def _workers(command: Command) -> list[int]:
    children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children")
    found = []
    for pid in map(int, children.read_text().split()):
        with suppress(ProcessLookupError, FileNotFoundError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def _download(url: str, number: int) -> str:
    """`right`, `cut` where the client sees an error, or what was wrong."""
    digest, size = hashlib.sha256(), 0
    headers = {"range": f"bytes={number}-"} if number % 3 == 0 else {}
    expected = hashlib.sha256(BODY[number:]).hexdigest() if headers else SHA256
    try:
        with httpx2.stream("GET", url + PATH, headers=headers, timeout=30) as answer:
            if answer.status_code not in (200, 206):
                return f"status {answer.status_code}"
            for chunk in answer.iter_raw(1 << 18):
                digest.update(chunk)
                size += len(chunk)
                time.sleep(0.001)
    except httpx2.TransportError:
        return "cut"
    return "right" if digest.hexdigest() == expected else f"{size} bytes, and wrong"


def _answers(url: str) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(f"{url}/healthz", timeout=5).status_code == 200
    return False


def test_a_killed_worker_never_makes_a_file_wrong(command: Command) -> None:
    chosen = random.Random("workers")
    ended = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 3 and not ended.wait(0.3):
            if len(workers := _workers(command)) == 3:
                os.kill(pid := chosen.choice(workers), signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    results: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        while len(results) < DOWNLOADS or len(killed) < 3:
            batch = range(len(results), len(results) + 20)
            results += pool.map(lambda number: _download(command.url, number), batch)
            assert len(results) < 20 * DOWNLOADS
    ended.set()
    killer.join()
    assert set(results) <= {"right", "cut"}
    assert results.count("right") > len(results) / 3
    until(lambda: _answers(command.url))
    assert _download(command.url, 1) == "right"


def test_thirty_restarts_fail_no_download(command: Command) -> None:
    with ThreadPoolExecutor(4) as pool:
        downloads: list[Future[str]] = []
        for number in range(30):
            command.process.send_signal(signal.SIGHUP)
            downloads.append(pool.submit(_download, command.url, number))
            time.sleep(0.1)
        assert {one.result() for one in downloads} == {"right"}
    started = time.monotonic()
    command.process.terminate()
    command.process.wait(30)
    assert time.monotonic() - started < 10
