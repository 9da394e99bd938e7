"""A worker of newer code takes over from an older one, under the supervisor of the older code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx2

import mirror
from mirror.server.worker_config import WorkerConfig
from tests.folders import Content, make_managed
from tests.waiting import until

BODY = bytes(range(256)) * 400_000
PATH = "/Org/Model/resolve/main/large.bin"


def test_what_a_worker_is_told_is_read_by_name() -> None:
    config = WorkerConfig(Path("data"), sources=("bento:x",), token_file=Path("t"), workers=3)
    description = config.describe()
    assert WorkerConfig.parse(description) == config
    newer = {**description, "something": "new"}
    del newer["xet_min_size"]
    assert WorkerConfig.parse(newer) == config


def test_sighup_after_an_upgrade(tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(Path(mirror.__file__).parent, code / "mirror")
    make_managed(tmp_path / "data" / "hub", Content({"large.bin": BODY}))
    command = [sys.executable, "-m", "mirror", "serve", "--port", "0", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if "HF_ENDPOINT=" in line)
        url = line.strip().partition("=")[2]
        until(lambda: _version(url) == "0.1.0")
        with httpx2.stream("GET", url + PATH) as answer:
            chunks = answer.iter_raw(1 << 20)
            body = bytearray(next(chunks))
            _upgrade(code / "mirror")
            process.send_signal(signal.SIGHUP)
            until(lambda: all(_version(url) == "0.2.0" for _ in range(20)))
            for chunk in chunks:
                body += chunk
        assert body == BODY
        assert "did not start" not in (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def _upgrade(code: Path) -> None:
    """A field more in the middle, and a route that tells the version."""
    file = code / "server" / "worker_config.py"
    text = file.read_text()
    field = '    public_url: str = ""\n'
    assert text.count(field) == 1
    file.write_text(text.replace(field, f'    a_new_field: str = "new"\n{field}'))
    health = code / "web" / "health.py"
    health.write_text(health.read_text().replace("This is hubmirror", "Version 0.2.0 of hubmirror"))
    for folder in code.rglob("__pycache__"):
        shutil.rmtree(folder)


def _version(url: str) -> str:
    try:
        text = httpx2.get(url, timeout=5).text
    except httpx2.TransportError:
        return ""
    return "0.2.0" if "0.2.0" in text else "0.1.0"
