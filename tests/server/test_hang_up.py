"""SIGHUP from an operator, and from a terminal that is closed."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.folders import make_managed
from tests.waiting import until


@dataclass
class OnTerminal:
    """A server that was started on a terminal of its own; `log` has what it prints."""

    process: subprocess.Popen[bytes]
    terminal: int
    log: Path
    is_open: bool = True

    def close_terminal(self) -> None:
        os.close(self.terminal)
        self.is_open = False

    @property
    def url(self) -> str:
        said = self.log.read_text() if self.log.exists() else ""
        found = re.search(r"HF_ENDPOINT=(http\S+)", said)
        return found[1] if found else ""

    def answers(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/healthz", timeout=5).status_code == 200
        return False

    def children(self) -> set[str]:
        pid = self.process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@contextlib.contextmanager
def on_terminal(folder: Path, workers: int, *under: str) -> Iterator[OnTerminal]:
    ours, theirs = pty.openpty()
    log = folder / "log"
    words = ["-m", "mirror", "serve", "--port", "0", "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with log.open("w") as output:
        process = subprocess.Popen(
            ["setsid", "--ctty", *under, sys.executable, *words],
            cwd=folder, stdin=theirs, stdout=output, stderr=output,
            env={**environment, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    os.close(theirs)
    server = OnTerminal(process, ours, log)
    try:
        until(lambda: bool(server.url) and server.answers())
        yield server
    finally:
        if server.is_open:
            server.close_terminal()
        process.terminate()
        process.wait(20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if shutil.which("setsid") is None:
        pytest.skip("setsid (util-linux) gives a server a terminal, and is not installed")
    make_managed(tmp_path / "data" / "hub")
    return tmp_path


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_ends_with_its_terminal(folder: Path, workers: int) -> None:
    with on_terminal(folder, workers) as server:
        children = server.children()
        server.close_terminal()
        server.process.wait(20)
        assert not server.answers()
        until(lambda: not [pid for pid in children if _runs(pid)])
        assert "died" not in server.log.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_nohup_keeps_a_server_after_its_terminal(folder: Path, workers: int) -> None:
    with on_terminal(folder, workers, "nohup") as server:
        before = server.children()
        server.close_terminal()
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(3)
        assert server.answers()
        assert server.children() == before
        server.process.send_signal(signal.SIGHUP)
        if workers > 1:
            until(lambda: len(server.children() - before) >= workers)
        else:
            until(lambda: "cannot be replaced while it serves" in server.log.read_text())
        assert server.answers()


def test_a_reload_on_an_open_terminal(folder: Path) -> None:
    with on_terminal(folder, 2) as server:
        before = server.children()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.children() - before) >= 2)
        assert server.answers()


def _runs(pid: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
