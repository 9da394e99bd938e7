"""Runs rsync: its progress, its figures, and its messages as one error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO

_VANISHED = 24
_MAX_LINES = 3
"""Lines of rsync's messages that an error quotes."""

_PROGRESS = re.compile(r" *(\d+) +\d+% ")
_STATS = {
    "Number of regular files transferred": "files",
    "Total transferred file size": "size",
    "Number of deleted files": "deleted",
}
_OTHER_STATS = re.compile(
    r"(Number of |Total |Literal data|Matched data|File list |sent \d|total size is |$)"
)
_SPEAKER = re.compile(r"^rsync(?: error)?: (?:\[\w+\] )?")
_CAUSES = {
    12: "the destination ended the connection (is rsync installed there?)",
    20: "rsync was interrupted",
    30: "the destination did not answer in time",
    255: "ssh failed",
}


@dataclass(slots=True)
class Stats:
    """What rsync copied and deleted; sizes are in bytes."""

    files: int = 0
    size: int = 0
    deleted: int = 0
    has_vanished: bool = False
    """Whether files vanished while rsync copied them."""


class RsyncError(CarryError):
    """rsync failed; `messages` are its last lines, without the name of the program."""

    def __init__(self, code: int, messages: Sequence[str]) -> None:
        self.messages = messages
        super().__init__("; ".join(messages) or _CAUSES.get(code, f"its exit status is {code}"))


def rsync(
    words: Sequence[str],
    *,
    advanced: Callable[[int], None] = lambda _: None,
    printed: Callable[[str], None] = lambda _: None,
) -> Stats:
    """Run rsync. `advanced` receives counts of bytes, and `printed` each other line of its output.

    Raises RsyncError.
    """
    if shutil.which("rsync") is None:
        raise CarryError("rsync is not installed on this host. Run apt-get install rsync.")
    stats, received = Stats(), 0
    process = subprocess.Popen(  # noqa: S603
        ["rsync", *words, "--no-human-readable", "--info=progress2", "--stats"],  # noqa: S607
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    with process, _Tail(process.stderr) as tail:
        for line in _lines(process.stdout):
            name, _, value = line.partition(": ")
            if found := _PROGRESS.match(line):
                advanced(int(found[1]) - received)
                received = int(found[1])
            elif name in _STATS:
                setattr(stats, _STATS[name], int(value.split()[0]))
            elif not _OTHER_STATS.match(line):
                printed(line)
    if process.returncode == _VANISHED:
        stats.has_vanished = True
    elif process.returncode:
        raise RsyncError(process.returncode, tail.messages())
    return stats


def _lines(stream: IO[bytes] | None) -> Iterator[str]:
    """The lines of the output. rsync ends a line of progress with a carriage return."""
    rest = b""
    while stream and (chunk := os.read(stream.fileno(), 65536)):
        *lines, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from (line.decode(errors="replace") for line in lines)
    yield rest.decode(errors="replace")


class _Tail:
    """Reads a stream in a thread, and keeps its last lines."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._lines: deque[bytes] = deque(maxlen=20)
        self._thread = threading.Thread(
            target=lambda: self._lines.extend(stream or ()), daemon=True
        )

    def __enter__(self) -> _Tail:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def messages(self) -> list[str]:
        """The last lines, without the summary that rsync adds to other messages."""
        lines = [line.decode(errors="replace").strip() for line in self._lines]
        said = [line for line in lines if line and not line.startswith("rsync error:")]
        return [_SPEAKER.sub("", line) for line in said[-_MAX_LINES:]]
