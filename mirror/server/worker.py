"""One process that serves: alone, or as a worker under the supervisor."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mirror.core.errors import HubmirrorError, operator_text
from mirror.derived.xet_hashes import XetHashes
from mirror.openllm.served_files import OpenLLMFiles
from mirror.server.opened_sources import open_sources, parse_devices
from mirror.server.parent_watch import ParentWatch
from mirror.server.repeated_warnings import RepeatedWarnings
from mirror.server.uvicorn_adapter import add_https, make_server
from mirror.server.worker_config import CANNOT_START, WorkerConfig
from mirror.web.app import create_app
from mirror.web.observe import AccessLog, JsonFormatter, Logs
from mirror.web.recorder import Recorder

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection

    import uvicorn
    from starlette.applications import Starlette

    from mirror.core.source import Source
    from mirror.server.opened_sources import OpenedSources

log = logging.getLogger("hubmirror")

GRACE_S = 10
"""For how many seconds a stop waits for downloads."""

_NO_WAIT_S = 0.05
_POLL_INTERVAL_S = 0.02
# A short interval, so that a busy thread does not block the event loop for long.
_SWITCH_INTERVAL_S = 0.0005


def main(
    description: Mapping[str, Any], listeners: Sequence[socket.socket], ready: Connection
) -> None:
    """A worker process: the supervisor starts it by this name, which stays. `listeners` are that of
    http, and that of https if there is one; `ready` gets a message once requests are accepted."""
    # If the terminal hangs up, all its processes get the signal. The supervisor stops the workers.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    config = WorkerConfig.parse(description)
    configure_log(config.log_format)
    try:
        server = build_server(config, listeners)
    except (HubmirrorError, OSError) as exc:
        text = operator_text(exc) if isinstance(exc, HubmirrorError) else exc
        log.error("A worker cannot start: %s", text)  # noqa: TRY400
        sys.exit(CANNOT_START)
    serve(server, listeners, ready)


def serve(
    server: uvicorn.Server, listeners: Sequence[socket.socket], ready: Connection | None = None
) -> None:
    """Serve until a signal ends it; `ready` gets a message once requests are accepted."""
    if ready is not None:
        threading.Thread(target=_tell_when_started, args=(server, ready), daemon=True).start()
    server.run([listeners[0]])


def _tell_when_started(server: uvicorn.Server, ready: Connection) -> None:
    while not server.started:
        time.sleep(_POLL_INTERVAL_S)
    with suppress(OSError):
        ready.send(b"ready")


def build_server(
    config: WorkerConfig, listeners: Sequence[socket.socket], opened: OpenedSources | None = None
) -> uvicorn.Server:
    """The server of one process, which opens the sources itself unless they are given. Raises
    ConfigError."""
    # The supervisor counts the seconds itself, and a worker that it retires is not bounded.
    grace = None if config.is_supervised else GRACE_S
    app = _build_app(config, opened)
    if config.certificate is not None:
        add_https(app, listeners[1], config.certificate, config.names, grace)
    return make_server(app, grace)


def _build_app(config: WorkerConfig, opened: OpenedSources | None) -> Starlette:
    configure_log(config.log_format)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    opened = opened or open_config(config)
    source: Source = opened.sources
    if config.upstream:  # it is imported when it is needed, because it takes time and memory
        source = import_module("mirror.server.upstream_source").open_upstream(config, opened)
    watch = ParentWatch(config.temporary, GRACE_S) if config.is_supervised else None

    def stop() -> None:
        opened.close()
        if watch is not None:
            watch.close()

    return create_app(
        source,
        opened.state,
        proxy=config.proxy_settings(),
        xet_hashes=XetHashes(opened.digests, config.xet_min_size, config.offers_xet),
        openllm_files=OpenLLMFiles(config.data, opened.digests),
        logs=Logs(
            AccessLog(sys.stderr, config.log_format),
            Recorder(config.recording) if config.recording else None,
        ),
        on_stop=stop,
    )


def open_config(config: WorkerConfig) -> OpenedSources:
    """The sources, which wait for digests for a moment only: the web layer waits longer. Raises
    ConfigError."""
    specs, devices = config.source_specs(), parse_devices(config.devices)
    return open_sources(config.data, config.state, specs, timeout_s=_NO_WAIT_S, devices=devices)


def configure_log(log_format: str) -> None:
    """All log lines, uvicorn's too, go to standard error in one form; repeated warnings once a
    minute."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    handler.addFilter(RepeatedWarnings(handler))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("hubmirror").setLevel(logging.INFO)
