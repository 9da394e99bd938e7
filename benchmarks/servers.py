"""Servers for a benchmark, what they cost, and a table of rounds."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load import print_table

_IDLE_S = 0.03
"""Seconds of CPU in a fifth of a second that an idle server uses at most."""


@dataclass
class Server:
    """A running server, and how to reach the same thing on it."""

    name: str
    pid: int
    port: int

    def pids(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def cpu(self) -> float:
        """Seconds of user and system time, of all its processes."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident MiB, of all its processes."""
        texts = (Path(f"/proc/{pid}/status").read_text() for pid in self.pids())
        return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in texts) / 1024


@dataclass
class Table:
    """Rounds of figures by what was measured and by server."""

    rounds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, what: str, server: str, figure: float) -> None:
        self.rounds.setdefault((what, server), []).append(figure)

    def print(self, names: Sequence[str], base: str) -> None:
        whats = list(dict.fromkeys(what for what, _ in self.rounds))
        rows = []
        for what in whats:
            row = [what]
            medians = {
                n: statistics.median(self.rounds[what, n])
                for n in names
                if (what, n) in self.rounds
            }
            for name in names:
                if name not in medians:
                    row.append("")
                elif name == base or not medians.get(base):
                    row.append(f"{medians[name]:.4g}")
                else:
                    row.append(f"{medians[name]:.4g} ({medians[name] / medians[base]:.2f})")
            rows.append(row)
        print_table(["", *names], rows)


@contextlib.contextmanager
def started(command: list[str], name: str, port: int) -> Iterator[Server]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until_listening(port)
            yield Server(name, process.pid, port)
        finally:
            process.terminate()


def until_listening(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def until_200(port: int, path: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            head = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method="HEAD")
            urllib.request.urlopen(head, timeout=60).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def until_idle(server: Server) -> None:
    """Wait until the server uses no CPU for a second: then all digests and Xet hashes are there."""
    deadline, idle, before = time.monotonic() + 120, 0, server.cpu()
    while idle < 5 and time.monotonic() < deadline:
        time.sleep(0.2)
        now = server.cpu()
        idle, before = (idle + 1 if now - before < _IDLE_S else 0), now


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
