"""A server that a command starts for itself."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from typing import TYPE_CHECKING, Any

from mirror.core.errors import ConfigError
from mirror.server.parent_watch import ParentWatch
from mirror.server.run import run
from mirror.server.worker import GRACE_S, open_config
from mirror.server.worker_config import WorkerConfig

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping
    from multiprocessing.connection import Connection
    from pathlib import Path

_CONTEXT = multiprocessing.get_context("spawn")
_START_TIMEOUT_S = 60.0


@contextlib.contextmanager
def own_server(config: WorkerConfig, listener: socket.socket, log: Path) -> Iterator[None]:
    """Serve on a listening socket, in a process of its own that writes to a log file.

    Raises ConfigError if it does not start.
    """
    ready, child = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(config.describe(), listener, child, str(log)))
    process.start()
    child.close()
    try:
        if not _is_ready(ready):
            raise ConfigError(f"The server did not start. Its log ends with:\n{_end_of(log)}")
        yield
    finally:
        process.terminate()
        process.join(GRACE_S + 5)
        process.kill()
        process.join()


def _serve(
    description: Mapping[str, Any], listener: socket.socket, ready: Connection, log: str
) -> None:
    os.setsid()  # an interrupt from the terminal is for the command
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    ParentWatch((), GRACE_S)
    config = WorkerConfig.parse(description)
    run(config, open_config(config), [listener], ready)


def _is_ready(ready: Connection) -> bool:
    try:
        return ready.poll(_START_TIMEOUT_S) and bool(ready.recv() == b"ready")
    except EOFError:
        return False


def _end_of(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-2000:]
    except OSError:
        return "(nothing)"
