"""Commands in processes of their own, which begin at once: they are forked from one that has
imported all."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from mirror.cli import main
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from tests.servers import run_server
from tests.waiting import until

_context = get_context("forkserver")
_context.set_forkserver_preload(["mirror.cli.pull", __name__])


@dataclass(frozen=True)
class Running:
    """A command under way, and the file that has all that it says."""

    process: ForkServerProcess
    log: Path

    def kill(self) -> bool:
        """End it at once (SIGKILL); whether it was still at work."""
        was_alive = self.process.is_alive()
        self.process.kill()
        self.process.join(30)
        return was_alive and self.process.exitcode == -9

    def wait(self) -> int:
        """Its exit status."""
        self.process.join(60)
        assert self.process.exitcode is not None, self.said
        return self.process.exitcode

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def begin(log: Path, *words: str) -> Running:
    """`hubmirror` with these words, started in the folder of the log."""
    process = _context.Process(target=_command, args=(log, words), daemon=True)
    process.start()
    return Running(process, log)


@contextlib.contextmanager
def serving_at_once(hub: Path, log: Path) -> Iterator[str]:
    """A server of a managed cache, in a process of its own, which looks at the disk for each
    answer; yields its URL."""
    process = _context.Process(target=_serve, args=(hub, log), daemon=True)
    process.start()
    try:
        until(lambda: log.exists() and log.read_text().endswith("\n"))
        yield log.read_text().strip()
    finally:
        process.kill()
        process.join(30)


def _serve(hub: Path, log: Path) -> None:
    state = State(log.parent / "state")
    source = HfCache(hub, Digests(state), managed=True, ttl_s=0)
    with run_server(create_app(FirstFound([source]), state, ttl_s=0)) as url:
        log.write_text(f"{url}\n")
        threading.Event().wait()


def _command(log: Path, words: tuple[str, ...]) -> None:
    os.chdir(log.parent)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    main(words)


def names(folder: Path) -> set[str]:
    """The names in a folder, which may not be there."""
    with contextlib.suppress(FileNotFoundError):
        return {path.name for path in folder.iterdir()}
    return set()
