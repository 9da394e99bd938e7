"""A closed network: loopback alone, and names of its own.

It is a namespace of the kernel. Inside, every other address and name fails at once, so that what
runs there has found all it needs at the mirror.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parents[2]
MIRROR_URL = "http://127.0.0.1:8400"
_UNSHARE = ["unshare", "--map-root-user", "--mount", "--net", "--propagation", "private"]
_REQUEST = re.compile(r"^\S+Z \S+ ([A-Z]+ /\S* \d{3}) ", re.MULTILINE)
_GRACE = 15


def basics(home: Path, *folders: Path) -> dict[str, str]:
    """The least environment: a home, and the programs of these folders, and of the system."""
    system = [os.fspath(Path(sys.executable).resolve().parent), "/usr/bin", "/bin"]
    return {"HOME": str(home), "PATH": os.pathsep.join([*map(str, folders), *system])}


@dataclass(frozen=True)
class Server:
    """A process in a closed network, and the file of what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def requests(self) -> list[str]:
        """Where it is the mirror: method, path and status of what was asked, in order."""
        return [one for one in _REQUEST.findall(self.said()) if "/readyz" not in one]


@dataclass
class Closed:
    """A closed network, known by a process that holds it open."""

    holder: int
    logs: Path
    servers: list[Server] = field(default_factory=list)

    def run(
        self,
        words: Sequence[str | Path],
        env: Mapping[str, str],
        *,
        cwd: Path | None = None,
        timeout: float = 200,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside until it ends."""
        return subprocess.run(
            self._inside(words, cwd or self.logs), env=env, capture_output=True, text=True,
            timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, name: str, words: Sequence[str | Path], env: Mapping[str, str]) -> Server:
        """Start a command inside, which goes on."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._inside(words, self.logs), env=env, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        server = Server(process, log)
        self.servers.append(server)
        return server

    def mirror(self, data: Path, *words: str) -> Server:
        """`hubmirror serve` of a data folder, on its usual port."""
        command = [sys.executable, "-m", "mirror", "serve", "--data", str(data), "--workers", "1"]
        env = {**basics(self.logs), "PYTHONPATH": str(ROOT)}
        server = self.start("mirror", [*command, *words], env)
        self.wait_for(f"{MIRROR_URL}/readyz", server, 30)
        return server

    def wait_for(self, url: str, server: Server, seconds: float) -> None:
        """Until a URL of the server answers."""
        deadline = time.monotonic() + seconds
        while self._ask(url, 3).returncode != 0:
            alive = server.process.poll() is None and time.monotonic() < deadline
            assert alive, f"{url} does not answer:\n{self.told()}"

    def wait_until_said(self, server: Server, text: str, seconds: float) -> None:
        """Until the server, which may end by it, has said something."""
        deadline = time.monotonic() + seconds
        while text not in server.said():
            ended = server.process.poll() is not None and text not in server.said()
            assert not ended, f"{text!r} was not said:\n{self.told()}"
            assert time.monotonic() < deadline, f"{text!r} was not said:\n{self.told()}"
            time.sleep(0.2)

    def ask(self, url: str, body: str | None = None) -> str:
        """What a URL says; a body, which is JSON, is posted."""
        done = self._ask(url, 60, *([] if body is None else [body]))
        assert done.returncode == 0, f"{done.stderr}\n{self.told()}"
        return done.stdout

    def told(self) -> str:
        """The end of what each server said, for whoever looks into a failure."""
        return "".join(f"--- {one.log.name}\n{one.said()[-6000:]}\n" for one in self.servers)

    def close(self) -> None:
        """End all that runs inside, what the servers started too."""
        for server in reversed(self.servers):
            if server.process.poll() is None:
                os.killpg(server.process.pid, signal.SIGTERM)
        for server in self.servers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(_GRACE)
        while left := self._processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for server in self.servers:
                server.process.poll()
            time.sleep(0.05)

    def _ask(self, url: str, seconds: int, *body: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-I", str(SCRIPTS / "ask.py"), str(seconds), url, *body]
        return self.run(words, basics(self.logs))

    def _inside(self, words: Sequence[str | Path], cwd: Path) -> list[str]:
        return [
            "nsenter", f"--target={self.holder}", "--user", "--mount", "--net",
            "--preserve-credentials", f"--wd={cwd}", *map(str, words),
        ]  # fmt: skip

    def _processes(self) -> list[int]:
        """Everything in this network, but its holder."""
        own = _network(self.holder)
        pids = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
        return [pid for pid in pids if pid != self.holder and _network(pid) == own]


def _network(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    return ""


@contextlib.contextmanager
def closed_network(logs: Path, *names: str) -> Iterator[Closed]:
    """A closed network in which the names are of loopback. Skips the test where the machine
    cannot have one."""
    for program in ("unshare", "nsenter", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on this machine")
    tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine lets us have no namespaces: {tried.stderr.strip()}")
    hold = [*_UNSHARE, sys.executable, "-I", str(SCRIPTS / "hold.py"), *names]
    holder = subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        closed = Closed(int(holder.stdout.readline()), logs)
        try:
            yield closed
        finally:
            closed.close()
    holder.wait(10)
