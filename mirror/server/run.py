"""Starts the server processes for a configuration."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import ConfigError
from mirror.server.hang_up import HangUp
from mirror.server.supervisor import Supervisor
from mirror.server.worker import GRACE_S, build_server, serve
from mirror.web.observe import METRICS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from mirror.server.opened_sources import OpenedSources
    from mirror.server.worker_config import WorkerConfig


log = logging.getLogger("hubmirror")

_MAX_DESCRIPTORS = 1_048_576


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket. Raises ConfigError if the address is in use or not on this host.
    `option` is the flag of the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        cause, next_step = _why_not(exc, option)
        raise ConfigError(f"Cannot listen on {host} port {port}: {cause}. {next_step}.") from exc
    listener.set_inheritable(True)
    return listener


def _why_not(exc: OSError, option: str) -> tuple[str, str]:
    """The cause and the next step."""
    number = exc.errno or 0
    if number < 0:  # an error of getaddrinfo
        return "this host does not know the name", "Choose an address of this host with --host"
    if number == errno.EADDRNOTAVAIL:
        return (
            "it is not an address of this host",
            "Choose one of its addresses with --host; 0.0.0.0 means all of them",
        )
    if number == errno.EACCES:
        return "this user may not use the port", f"Choose a port from 1024 on with {option}"
    return os.strerror(number), f"Choose another port with {option}, or stop what listens there"


def raise_descriptor_limit() -> None:
    """Let this process and its workers open as many files as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run(
    config: WorkerConfig,
    opened: OpenedSources,
    listeners: Sequence[socket.socket],
    ready: Connection | None = None,
) -> None:
    """Serve until a signal ends it, by one process or by several under a supervisor. `listeners`
    are that of http, and that of https if there is one. `ready` gets a message once requests are
    accepted.

    Raises ConfigError if the workers do not start.
    """
    if not config.is_supervised:
        HangUp(_refuse_reload, lambda: signal.raise_signal(signal.SIGTERM))
        serve(build_server(config, listeners, opened), listeners, ready)
        return
    with tempfile.TemporaryDirectory(prefix="hubmirror-metrics-") as metrics:
        os.environ[METRICS_FOLDER] = metrics
        scratch = [opened.scratch] if opened.scratch else []
        description = replace(config, temporary=(Path(metrics), *scratch)).describe()
        modules = ["mirror.server.worker"] * config.workers
        if config.upstream:
            modules.append("mirror.server.filler_process")
        supervisor = Supervisor(description, listeners, modules, GRACE_S)
        if not supervisor.run(lambda: ready.send(b"ready") if ready else None):
            raise ConfigError("The workers did not start. Their own messages are above.")


def _refuse_reload() -> None:
    log.warning("One process cannot be replaced while it serves. Restart it, or use --workers 2.")
