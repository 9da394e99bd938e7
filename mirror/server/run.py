"""Starts the server processes for a configuration."""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import ConfigError
from mirror.server.supervisor import Supervisor
from mirror.server.worker import GRACE_S, build_server
from mirror.web.observe import METRICS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.server.opened_sources import OpenedSources
    from mirror.server.worker_config import WorkerConfig


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket. Raises ConfigError if the address is in use or not on this host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        raise ConfigError(
            f"Cannot listen on {host} port {port}: {exc.strerror}. "
            f"Choose another port with {option}, or stop what listens there."
        ) from exc
    listener.set_inheritable(True)
    return listener


def run(config: WorkerConfig, opened: OpenedSources, listeners: Sequence[socket.socket]) -> None:
    """Serve until a signal ends it, by one process or by several under a supervisor. `listeners`
    are that of http, and that of https if there is one.

    Raises ConfigError if the workers do not start.
    """
    if config.workers == 1:
        build_server(config, listeners, opened).run([listeners[0]])
        return
    with tempfile.TemporaryDirectory(prefix="hubmirror-metrics-") as metrics:
        os.environ[METRICS_FOLDER] = metrics
        scratch = [opened.scratch] if opened.scratch else []
        description = replace(config, temporary=(Path(metrics), *scratch)).describe()
        if not Supervisor(description, listeners, config.workers, GRACE_S).run():
            raise ConfigError("The workers did not start. Their own messages are above.")
