"""A server that runs out of what the system gives it goes on when there is some again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from pathlib import Path

import httpx2
import pytest

from tests.folders import FILES, Content, entry, make_managed
from tests.servers import run_command, slow_sockets
from tests.waiting import until

PRLIMIT = shutil.which("prlimit")


@pytest.mark.skipif(PRLIMIT is None, reason="prlimit, of util-linux, is not installed")
def test_no_free_file_descriptors(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    under = [str(PRLIMIT), "--nofile=100"]
    with run_command(tmp_path, "--workers", "1", under=under) as command:
        port = int(command.url.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(150):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            time.sleep(0.5)
        answer = httpx2.get(f"{command.url}/Org/Model/resolve/main/model.safetensors", timeout=20)
        assert answer.content == FILES["model.safetensors"]
        descriptors = Path(f"/proc/{command.process.pid}/fd")
        assert len(list(descriptors.iterdir())) < 60


def _nofile(pid: int) -> list[str]:
    limits = Path(f"/proc/{pid}/limits").read_text()
    return next(line for line in limits.splitlines() if "open files" in line).split()[3:5]


@pytest.mark.skipif(PRLIMIT is None, reason="prlimit, of util-linux, is not installed")
def test_the_soft_limit_of_descriptors_is_raised(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    under = [str(PRLIMIT), "--nofile=256:4000"]
    with run_command(tmp_path, "--workers", "2", under=under) as command:
        pid = command.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (pid, *map(int, children)):
            assert _nofile(process) == ["4000", "4000"]


@pytest.mark.skipif(PRLIMIT is None, reason="prlimit, of util-linux, is not installed")
def test_the_log_says_that_descriptors_run_out(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    errors = tmp_path / "errors"
    under = [str(PRLIMIT), "--nofile=100"]
    with (
        errors.open("w") as stream,
        run_command(tmp_path, "--workers", "1", under=under, errors=stream) as command,
        contextlib.ExitStack() as stack,
    ):
        port = int(command.url.rpartition(":")[2])
        assert "free" not in errors.read_text()
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        until(lambda: "may open 100 files and connections" in errors.read_text())
    assert errors.read_text().count("LimitNOFILE in systemd") == 1


def test_downloads_of_a_file_share_its_descriptor(tmp_path: Path) -> None:
    body = bytes(range(256)) * 40_000
    make_managed(tmp_path / "data" / "hub", Content({"model.bin": body}))
    request = b"GET /Org/Model/resolve/main/model.bin HTTP/1.1\r\nHost: x\r\n\r\n"
    with run_command(tmp_path, "--workers", "1") as command:
        descriptors = Path(f"/proc/{command.process.pid}/fd")
        blob = entry("model.bin", body).etag
        before = len(list(descriptors.iterdir()))
        with slow_sockets(int(command.url.rpartition(":")[2])) as connect:
            downloads = [connect() for _ in range(40)]
            for download in downloads:
                download.sendall(request)
                assert download.recv(1) == b"H"
            links = [str(link.readlink()) for link in descriptors.iterdir()]
            assert sum(link.endswith(blob) for link in links) == 1
            assert len(links) - before < 2 * len(downloads) + 20
            assert _rest(downloads[0]).endswith(body)
        until(lambda: len(list(descriptors.iterdir())) <= before + 5)
        assert httpx2.get(f"{command.url}/Org/Model/resolve/main/model.bin").content == body


def _rest(connection: socket.socket) -> bytes:
    """What comes until the whole body of ten megabytes is here."""
    came = bytearray()
    while len(came) < 10_240_000 or b"\r\n\r\n" not in came[:-10_240_000]:
        came += connection.recv(1 << 20)
    return bytes(came)
