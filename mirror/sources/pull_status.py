"""The state of the pulls into a managed cache, for readers in other processes.

While a pull fetches a revision, it keeps one small file below `.hubmirror/pulls`, which it replaces
every two seconds, and removes when the revision is published. If the process of the file is gone,
the pull was stopped. Every reader uses `read_pull` or `read_pulls`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.errors import HubmirrorError
from mirror.core.files import read_regular
from mirror.core.record import MAX_FILE
from mirror.core.repo import Repo
from mirror.core.units import duration, human
from mirror.derived.state import write_atomically
from mirror.sources.repo_dir import WORK_DIR

if TYPE_CHECKING:
    from pathlib import Path

_WRITE_INTERVAL_S = 2.0
_RATE_SAMPLES = 6
_STALE_S = 60.0
"""A process that cannot be checked from here is gone if it wrote nothing for this long."""

_MAX_BODY = 16 * 1024
_MAX_TEXT = 1000
_MAX_PULLS = 1000


class PullState(StrEnum):
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"
    """The process was killed or interrupted, or its host is gone."""


@dataclass(frozen=True, slots=True)
class PullStatus:
    """The pull of one revision. `size` are the bytes that it had to fetch, `received` those that
    it has; `rate` is in bytes per second. A file that is damaged belongs to a stopped pull of
    which nothing else is known."""

    repo: Repo
    state: PullState = PullState.STOPPED
    revision: str = ""
    commit_hash: str = ""
    received: int = 0
    size: int = 0
    rate: int = 0
    started_at: datetime | None = None
    updated_at: datetime | None = None
    pid: int = 0
    host: str = ""
    error: str = ""

    @property
    def is_running(self) -> bool:
        return self.state is PullState.RUNNING

    @property
    def progress(self) -> str:
        """How much has arrived: `3.2 GB of 10.0 GB`."""
        return f"{human(self.received)} of {human(self.size)}"

    @property
    def text(self) -> str:
        """The state and, if the pull ended, the next step; for the operator."""
        if self.is_running:
            rate = f"{self.progress}, {human(self.rate)}/s"
            if self.rate:
                rate += f", {duration((self.size - self.received) / self.rate)} left"
            return f"{rate}, by process {self.pid} on {self.host}"
        if self.state is PullState.FAILED:
            return f"the pull failed: {self.error}"
        at = f"@{self.revision}" if self.revision not in ("", "main") else ""
        when = f" at {self.updated_at:%Y-%m-%d %H:%M} UTC" if self.updated_at else ""
        again = f"Run `hubmirror pull {self.repo}{at}` again"
        return f"the pull was stopped{when} with {self.progress}. {again}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "repo": str(self.repo), "state": self.state, "revision": self.revision,
            "commit_hash": self.commit_hash, "received": self.received, "size": self.size,
            "rate": self.rate, "started_at": self.started_at, "updated_at": self.updated_at,
            "pid": self.pid, "host": self.host, "error": self.error,
        }  # fmt: skip


class RunningPull:
    """Writes the state of a pull while it runs, as a context manager.

    The caller holds the lock of the repository. `size` can change while the pull runs. A disk that
    takes no file does not stop the pull.
    """

    def __init__(self, root: Path, repo: Repo, revision: str, commit_hash: str, size: int) -> None:
        self._path = _path(root, repo)
        self._fixed = {
            "revision": revision,
            "commit_hash": commit_hash,
            "started_at": datetime.now(UTC),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "process": _process(os.getpid()),
        }
        self.size = size
        self._received = 0
        self._samples = deque([(time.monotonic(), 0)], _RATE_SAMPLES)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._keep_writing, name="pull-status", daemon=True)

    def advance(self, count: int) -> None:
        """`count` more bytes arrived. A negative count means that they are fetched again."""
        with self._lock:
            self._received += count

    def __enter__(self) -> RunningPull:
        self._write()
        self._writer.start()
        return self

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        self._ended.set()
        self._writer.join()
        if exc is None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        else:
            self._write(_error_text(exc))

    def _keep_writing(self) -> None:
        while not self._ended.wait(_WRITE_INTERVAL_S):
            self._write()

    def _write(self, error: str = "") -> None:
        now, received = time.monotonic(), self._received
        then, before = self._samples[0]
        self._samples.append((now, received))
        body = self._fixed | {
            "size": self.size,
            "received": max(0, received),
            "rate": max(0, int((received - before) / (now - then))) if now > then else 0,
            "updated_at": datetime.now(UTC),
            "error": error[:_MAX_TEXT],
        }
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, orjson.dumps(body), durable=False)


def read_pull(root: Path, repo: Repo) -> PullStatus | None:
    """The last pull of a repository into the cache at `root`, if it did not end well; else None."""
    try:
        body = read_regular(_path(root, repo), _MAX_BODY, follow=False)
    except FileNotFoundError:
        return None
    except OSError:
        return PullStatus(repo)
    try:
        return _parse(repo, orjson.loads(body))
    except (ArithmeticError, KeyError, TypeError, ValueError):
        return PullStatus(repo)


def read_pulls(root: Path) -> list[PullStatus]:
    """All pulls into the cache at `root` that run, failed or were stopped, in the order of their
    repositories; at most 1000."""
    try:
        names = sorted(os.listdir(root / WORK_DIR / "pulls"))[:_MAX_PULLS]
    except OSError:
        return []
    repos = [Repo.from_folder_name(name[:-5]) for name in names if name.endswith(".json")]
    found = [read_pull(root, repo) for repo in repos if repo]
    return [pull for pull in found if pull]


def forget_pull(root: Path, repo: Repo) -> None:
    """Remove the state of a pull whose repository is removed."""
    _path(root, repo).unlink(missing_ok=True)


def _path(root: Path, repo: Repo) -> Path:
    return root / WORK_DIR / "pulls" / f"{repo.folder_name}.json"


def _parse(repo: Repo, body: dict[str, Any]) -> PullStatus:
    """Raises KeyError, TypeError, ValueError or ArithmeticError for a damaged file."""
    updated_at = _time(body["updated_at"])
    error = _text(body["error"])
    state = PullState.STOPPED
    if error:
        state = PullState.FAILED
    elif _is_alive(_count(body["pid"]), _text(body["process"]), updated_at):
        state = PullState.RUNNING
    return PullStatus(
        repo,
        state,
        revision=_text(body["revision"]),
        commit_hash=_text(body["commit_hash"]),
        received=_count(body["received"]),
        size=_count(body["size"]),
        rate=_count(body["rate"]),
        started_at=_time(body["started_at"]),
        updated_at=updated_at,
        pid=_count(body["pid"]),
        host=_text(body["host"]),
        error=error,
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_FILE:
        raise ValueError("not a count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise ValueError("not a text")
    return value


def _time(value: Any) -> datetime:
    found = datetime.fromisoformat(value)
    return found.astimezone(UTC)


def _is_alive(pid: int, process: str, updated_at: datetime) -> bool:
    """Whether a process runs. Another host or container cannot be asked: its last write counts."""
    here = _process(os.getpid()).split()[:2]
    if here and process.split()[:2] == here:
        return _process(pid) == process
    return abs((datetime.now(UTC) - updated_at).total_seconds()) < _STALE_S


def _process(pid: int) -> str:
    """What no other process has: the boot of the host, the namespace of pids, the pid, and when
    the process began. Empty if there is no such process, or the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            began = file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return f"{boot} {namespace} {pid} {began}"


def _error_text(exc: BaseException) -> str:
    if isinstance(exc, HubmirrorError):
        text = str(exc)
    elif isinstance(exc, OSError):
        text = f"a file cannot be written: {exc.strerror}."
    else:
        text = repr(exc)
    return "".join(char if char.isprintable() else " " for char in text)
