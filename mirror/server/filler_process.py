"""The process that fetches from upstream, under the supervisor."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn

from mirror.config.file import File
from mirror.core.errors import HubmirrorError, operator_text
from mirror.derived.state import try_lock
from mirror.pull_through.filler import Filler, FillerSettings, create_app
from mirror.pull_through.wire import socket_path
from mirror.server.opened_sources import check_not_away, parse_devices
from mirror.server.parent_watch import ParentWatch
from mirror.server.worker import GRACE_S, configure_log
from mirror.server.worker_config import CANNOT_START, WorkerConfig
from mirror.store.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

log = logging.getLogger("hubmirror")

_POLL_INTERVAL_S = 0.25
_LOCK = "filler.lock"


def main(
    description: Mapping[str, Any], listeners: Sequence[socket.socket], ready: Connection
) -> None:
    """The supervisor starts it by this name, which stays. It waits until no other filler works on
    the data folder. It does not serve, so it closes the `listeners`."""
    for listener in listeners:
        listener.close()
    config = WorkerConfig.parse(description)
    configure_log(config.log_format)
    ParentWatch(config.temporary, GRACE_S)
    with suppress(OSError):
        ready.send(b"ready")
    try:
        check_not_away(config.data, parse_devices(config.devices))
        _work(config)
    except (HubmirrorError, OSError) as exc:
        text = operator_text(exc) if isinstance(exc, HubmirrorError) else exc
        log.error("The process that asks upstream cannot start: %s", text)  # noqa: TRY400
        sys.exit(CANNOT_START)


def _work(config: WorkerConfig) -> None:
    cache = Cache.of(config.data / "hub")
    cache.work_dir.mkdir(parents=True, exist_ok=True)
    with (cache.work_dir / _LOCK).open("a+") as lock:
        while not try_lock(lock):
            time.sleep(_POLL_INTERVAL_S)
        lock.truncate(0)
        lock.write(orjson.dumps({"host": socket.gethostname(), "pid": os.getpid()}).decode())
        lock.flush()
        _serve(cache, config)


def _serve(cache: Cache, config: WorkerConfig) -> None:
    file = File.read(config.config_file) if config.config_file else None
    settings = FillerSettings(
        config.upstream,
        file.upstreams if file else (),
        config.fresh_s,
        config.finish == "always",
        config.cache_size,
        tuple(spec.repo for spec in file.repos) if file else (),
        config.forward_token,
    )
    listener = _listen(socket_path(cache.work_dir))
    # uvicorn sends itself the signal again when it has stopped, and the rest is still to be done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    filler = Filler(cache, settings)
    threading.Thread(target=filler.publish_rest, name="publish-rest", daemon=True).start()
    threading.Thread(target=filler.keep_size, name="cache-size", daemon=True).start()
    try:
        app = create_app(filler)
        server = uvicorn.Config(app, log_config=None, lifespan="off", access_log=False)
        uvicorn.Server(server).run([listener])
    finally:
        filler.close()


def _listen(path: Path) -> socket.socket:
    """A Unix socket. The path is relative, because the kernel limits its length."""
    os.chdir(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path.name)
    finally:
        os.umask(before)
    listener.listen(256)
    return listener
