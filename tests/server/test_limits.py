"""A server that runs out of what the system gives it goes on when there is some again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from pathlib import Path

import httpx2
import pytest

from tests.folders import FILES, make_managed
from tests.servers import run_command

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
