"""A disk that is unmounted under a running server: an outage, and not an empty mirror.

Each server has its own disk (a tmpfs in a mount namespace), which is really unmounted.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.folders import make_classic, make_managed, make_plain, write
from tests.server.test_workers import _workers
from tests.servers import Command, run_command
from tests.waiting import until

Start = Callable[..., "Disk"]

_UNSHARE = ("unshare", "--map-root-user", "--mount", "--propagation", "private")
_MOUNT = 'mount -t tmpfs tmpfs disk && cp -a seed/. disk/ && exec "$@"'

pytestmark = pytest.mark.skipif(
    bool(
        subprocess.run(
            [*_UNSHARE, "sh", "-c", "mount -t tmpfs tmpfs /mnt"], check=False, capture_output=True
        ).returncode
    ),
    reason="unshare cannot give a process its own file system on this machine",
)


@dataclass(frozen=True)
class Disk:
    """A server whose data is on a disk, and what can be done to the disk."""

    command: Command
    folder: Path
    log: Path

    def run(self, script: str) -> str:
        """Run a script where the server runs."""
        target = str(self.command.process.pid)
        enter = ["nsenter", "--target", target, "--user", "--preserve-credentials", "--mount"]
        done = subprocess.run(
            [*enter, "sh", "-c", f"cd {self.folder} && {script}"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    def unmount(self) -> None:
        self.run("umount --lazy disk")

    def mount(self) -> None:
        self.run("mount -t tmpfs tmpfs disk && cp -a seed/. disk/")

    def status(self, path: str) -> int:
        return httpx2.get(self.command.url + path, timeout=20).status_code


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server with these words. The folder `seed` is the content of its disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "seed").mkdir()
    log = tmp_path / "log"
    with ExitStack() as stack:

        def started(*words: str) -> Disk:
            under = (*_UNSHARE, "sh", "-c", _MOUNT, "sh")
            errors = stack.enter_context(log.open("w"))
            running = run_command(tmp_path, *words, under=under, errors=errors)
            return Disk(stack.enter_context(running), tmp_path, log)

        yield started


FILES = (
    "/Org/Model/resolve/main/config.json",
    "/Org/Model/resolve/main/model.safetensors",
    "/api/models/Org/Model",
    "/api/models/Org/Model/refs",
    "/api/models",
)


def _is_away(disk: Disk, *paths: str) -> bool:
    return {disk.status(path) for path in paths} == {503} and disk.status("/readyz") == 503


def _is_back(disk: Disk, *paths: str) -> bool:
    return {disk.status(path) for path in paths} == {200} and disk.status("/readyz") == 200


MAKE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "managed": (lambda seed: make_managed(seed / "hub"), ("--data", "disk")),
    "a managed cache that is the disk": (make_managed, ("--source", "managed:disk")),
    "hf-cache": (make_classic, ("--source", "hf-cache:disk")),
    "a cache below the disk": (
        lambda seed: make_classic(seed / "hub"), ("--source", "hf-cache:disk/hub"),
    ),
    "folder": (make_plain, ("--source", "folder:disk=Org/Model")),
    "bento": (
        lambda seed: write(
            make_plain(seed / "models/org--model/1") / "model.yaml",
            b"name: org--model\nversion: '1'\nmetadata: {hubmirror: {repo_id: Org/Model}}\n",
        ),
        ("--source", "bento:disk"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MAKE)
def test_an_unmounted_disk_is_an_outage_and_comes_back(
    tmp_path: Path, start: Start, kind: str
) -> None:
    make, words = MAKE[kind]
    make(tmp_path / "seed")
    disk = start("--workers", "1", "--state", "state", *words)
    until(lambda: _is_back(disk, *FILES))
    disk.unmount()
    until(lambda: _is_away(disk, *FILES), 60, 0.2)
    for _ in range(3):  # and it stays so
        assert _is_away(disk, *FILES)
    absent = httpx2.get(f"{disk.command.url}/api/models/Org/Nothing")
    assert absent.status_code == (404 if kind == "folder" else 503)  # it may be on the disk
    assert str(tmp_path) not in absent.text
    disk.mount()
    until(lambda: _is_back(disk, *FILES), 60, 0.2)
    assert disk.status("/api/models/Org/Nothing") == 404


def test_nothing_is_written_to_the_mount_point(tmp_path: Path, start: Start) -> None:
    make_managed(tmp_path / "seed" / "hub")
    disk = start("--workers", "1", "--data", "disk")
    until(lambda: _is_back(disk, *FILES))
    disk.unmount()
    until(lambda: _is_away(disk, *FILES), 60, 0.2)
    assert disk.run("ls -A disk") == ""
    disk.mount()
    until(lambda: _is_back(disk, *FILES), 60, 0.2)


def test_git_repositories_and_wheels_are_away_too(tmp_path: Path, start: Start) -> None:
    write(tmp_path / "seed/wheels/demo-1.0-py3-none-any.whl", b"")
    disk = start("--workers", "1", "--data", "disk", "--state", "state")
    git = "/-/git/github.com/org/name.git/info/refs?service=git-upload-pack"
    absent = (git, "/-/simple/nothing")
    paths = {path: disk.status(path) for path in absent}
    assert set(paths.values()) == {404}, paths
    disk.unmount()
    until(lambda: _is_away(disk, *absent, "/-/simple/demo"), 60, 0.2)
    disk.mount()
    until(lambda: {disk.status(path) for path in absent} == {404}, 60, 0.2)
    assert disk.status("/readyz") == 200


def test_a_folder_that_is_empty_from_the_start_stays_empty(start: Start) -> None:
    disk = start("--workers", "1", "--data", "disk")
    assert disk.status("/readyz") == 200
    assert disk.status("/api/models/Org/Model") == 404


def test_a_cache_that_was_emptied_is_not_away(tmp_path: Path, start: Start) -> None:
    """`hf cache rm` leaves the folder of its locks, and the device is the same."""
    make_classic(tmp_path / "seed")
    (tmp_path / "seed/.locks").mkdir()
    disk = start("--workers", "1", "--source", "hf-cache:disk", "--state", "state")
    until(lambda: _is_back(disk, *FILES))
    disk.run("rm -r disk/models--*")
    until(lambda: disk.status("/api/models/Org/Model") == 404, 60, 0.2)
    assert disk.status("/readyz") == 200


def test_a_worker_that_cannot_start_says_so_in_one_line_and_waits(
    tmp_path: Path, start: Start
) -> None:
    make_managed(tmp_path / "seed" / "hub")
    disk = start("--workers", "2", "--data", "disk")
    until(lambda: _is_back(disk, *FILES))
    before = _workers(disk.command)
    disk.unmount()
    os.kill(min(before), signal.SIGKILL)

    def lines() -> list[str]:
        return [line for line in disk.log.read_text().splitlines() if "cannot start" in line]

    until(lambda: len(lines()) >= 3, 60)
    log = disk.log.read_text()
    assert "Traceback" not in log
    assert "Mount its disk" in lines()[0]
    until(lambda: _is_away(disk, *FILES), 60, 0.2)
    assert max(before) in _workers(disk.command)
    assert disk.run("ls -A disk") == ""
    disk.mount()
    until(lambda: len(_workers(disk.command)) == 2, 60, 0.2)
    until(lambda: all(_is_back(disk, *FILES) for _ in range(5)), 60, 0.2)
    assert len(lines()) < 10


def test_a_worker_that_starts_before_a_source_is_back_answers_503(
    tmp_path: Path, start: Start
) -> None:
    make_classic(tmp_path / "seed")
    (tmp_path / "data").mkdir()
    disk = start("--workers", "2", "--source", "hf-cache:disk")
    until(lambda: _is_back(disk, *FILES))
    before = _workers(disk.command)
    disk.unmount()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    until(lambda: len(_workers(disk.command) - before) == 2, 60)
    until(lambda: _answers(disk), 60)
    for _ in range(20):
        assert disk.status("/api/models/Org/Model") == 503
    disk.mount()
    until(lambda: _is_back(disk, *FILES), 60, 0.2)


def _answers(disk: Disk) -> bool:
    try:
        return disk.status("/healthz") == 200
    except httpx2.TransportError:
        return False
