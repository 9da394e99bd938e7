"""From declared sources to a running server."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ipaddress
import logging
import os
import shutil
import socket
import ssl
import sys
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from mirror.config import DEFAULT_DATA, SourceSpec
from mirror.core.errors import ConfigError
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.derived.xet_hashes import XetHashes
from mirror.openllm.served_files import OpenLLMFiles
from mirror.server.supervisor import ParentWatch, Supervisor
from mirror.server.uvicorn_protocol import Protocol
from mirror.sources.bento import BentoStore
from mirror.sources.first_found import FirstFound
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from mirror.web.access import Signer
from mirror.web.app import ProxySettings, create_app
from mirror.web.observe import METRICS_FOLDER, AccessLog, JsonFormatter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.applications import Starlette

    from mirror.core.source import Source

log = logging.getLogger("hubmirror")

_KEEP_ALIVE = 75
_GRACE = 10
_NO_WAIT_S = 0.05
_SWITCH = 0.0005  # so that a thread at work does not keep the event loop waiting for long


@dataclass(frozen=True, slots=True)
class OpenedSources:
    """Where the server reads, and where it keeps what it derives. `scratch` is the state folder
    where that is a temporary one."""

    sources: FirstFound
    state: State
    digests: Digests
    scratch: Path | None = None

    def close(self) -> None:
        """Stop what computes digests, and remove the temporary folder."""
        self.digests.close()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Tls:
    """How https is served: where, by a certificate with its key, and the names that it is for."""

    listener: socket.socket
    certificate: Path
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """All that a worker process needs to build its application; a process that is started gets it
    by pickle, the listener too. `temporary` are the folders that all workers share, and that do not
    outlive the server."""

    data: Path
    state: Path | None
    sources: tuple[SourceSpec, ...]
    proxy: ProxySettings = field(default_factory=ProxySettings)
    log_format: str = "text"
    advertise_xet: bool = True
    xet_min_size: int = 0
    tls: Tls | None = None
    workers: int = 1
    temporary: tuple[Path, ...] = ()

    def open(self) -> OpenedSources:
        """The sources, which wait for digests for a moment only: the web layer waits longer."""
        return open_sources(self.data, self.state, self.sources, timeout_s=_NO_WAIT_S)


def open_sources(
    data: Path, state: Path | None, declared: Sequence[SourceSpec], *, timeout_s: float = 5.0
) -> OpenedSources:
    """The sources in the order in which they are asked: the managed hub/ of `data`, those that
    were declared, and a Bento store in bentoml/ of `data`. One that is declared for the same folder
    takes its place. Those of `data` may come later.

    Raises ConfigError where a folder is not there.
    """
    specs = list(declared)
    if not data.is_dir() and (not declared or data != DEFAULT_DATA):
        raise ConfigError(
            f"The data folder {data} is not there. Create it, name another with --data, or serve "
            "an existing cache with --source hf-cache:FOLDER."
        )
    hub = data / "hub"
    if data.is_dir() and not any(spec.path.resolve() == hub.resolve() for spec in specs):
        specs.insert(0, SourceSpec("managed", hub))
    store = data / "bentoml"
    if data.is_dir() and not any(spec.path.resolve() == store.resolve() for spec in specs):
        specs.append(SourceSpec("bento", store))
    for spec in specs:
        may_come = spec.path in (hub, store) and not spec.path.exists()
        if not spec.path.is_dir() and not may_come:
            raise ConfigError(
                f"The source {spec} is not there, or is no folder. Check its path, and that its "
                "disk is mounted."
            )
    folder, scratch = _state_folder(data, state), None
    if folder is None:
        folder = scratch = _temporary_state()
    kept = State(folder, data if data.is_dir() else None)
    digests = Digests(kept, timeout_s=timeout_s)
    return OpenedSources(
        FirstFound([_open(spec, digests) for spec in specs]), kept, digests, scratch
    )


def _open(spec: SourceSpec, digests: Digests) -> Source:
    if spec.repo is not None:
        return Folder(spec.path, spec.repo, digests, label=str(spec))
    if spec.kind == "bento":
        return BentoStore(spec.path, digests, label=str(spec))
    return HfCache(spec.path, digests, managed=spec.kind == "managed", label=str(spec))


def _state_folder(data: Path, chosen: Path | None) -> Path | None:
    """The folder for derived facts; None where data is read-only and none is chosen."""
    folder = chosen or data / ".hubmirror"
    try:
        folder.mkdir(parents=chosen is not None, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError as exc:
        if chosen:
            raise ConfigError(f"The state folder {folder} cannot be made: {exc.strerror}.") from exc
    if chosen:
        raise ConfigError(f"The state folder {folder} cannot be written.")
    return None


def _temporary_state() -> Path:
    """A folder for derived facts that is removed when this process ends."""
    log.warning(
        "The data folder is read-only: derived facts go to a temporary folder, and are computed "
        "again after a restart. Name a folder with --state to keep them."
    )
    folder = Path(tempfile.mkdtemp(prefix="hubmirror-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket. Raises ConfigError where the address is taken or not ours."""
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


def read_token(file: Path | None) -> str:
    """The token that the file holds; empty where there is no file."""
    if file is None:
        return ""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The token file {file} cannot be read.") from exc
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"The token file {file} must hold one token on one line.")
    return token


def parse_proxy_settings(
    public_url: str, trusted_proxies: Sequence[str], accel: str = "", token: str = ""
) -> ProxySettings:
    if public_url and not public_url.startswith(("http://", "https://")):
        raise ConfigError(f"public_url {public_url!r} must begin with http:// or https://.")
    try:
        networks = [ipaddress.ip_network(one) for one in trusted_proxies]
    except ValueError as exc:
        raise ConfigError(f"trusted_proxies: {exc}.") from exc
    return ProxySettings(public_url, networks, accel, Signer(token))


def configure_log(log_format: str) -> None:
    """All log lines, uvicorn's too, go to standard error in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("hubmirror").setLevel(logging.INFO)


def build_app(plan: WorkerConfig, place: OpenedSources | None = None) -> Starlette:
    """The application of one process, which opens the place itself unless it is given."""
    configure_log(plan.log_format)
    sys.setswitchinterval(_SWITCH)
    place = place or plan.open()
    watch = ParentWatch(plan.temporary, _GRACE) if plan.workers > 1 else None

    def stop() -> None:
        place.close()
        if watch is not None:
            watch.close()

    app = create_app(
        place.sources,
        place.state,
        proxy=plan.proxy,
        xet_hashes=XetHashes(place.digests, plan.xet_min_size, plan.advertise_xet),
        openllm_files=OpenLLMFiles(plan.data, place.digests),
        access_log=AccessLog(sys.stderr, plan.log_format),
        on_stop=stop,
    )
    if plan.tls is not None:
        _add_https(app, plan.tls, _grace(plan))
    return app


def _add_https(app: Starlette, tls: Tls, grace: int | None) -> None:
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def both(one: Starlette) -> AsyncIterator[Any]:
        async with inner(one) as state, _https(one, tls, grace):
            yield state

    app.router.lifespan_context = both


@contextlib.asynccontextmanager
async def _https(app: Starlette, tls: Tls, grace: int | None) -> AsyncIterator[None]:
    """Serve an application over TLS as well, by another server of uvicorn's on the same loop."""
    config = uvicorn.Config(app, timeout_graceful_shutdown=grace, **_options(lifespan="off"))
    config.load()
    config.ssl = _context(tls)
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([tls.listener])
    loop = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        server.should_exit = True
        await loop
        await server.shutdown([tls.listener])


def _context(tls: Tls) -> ssl.SSLContext:
    """What a listener needs. A client that asks for a name that is not listed is shown a
    certificate that does not fit, which every client can say, and the log says what to do."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(tls.certificate)
    listed = {name.lower() for name in tls.names}

    def asked(_: ssl.SSLObject | ssl.SSLSocket, name: str | None, __: ssl.SSLContext) -> int | None:
        if name is None or name.lower() in listed:
            return None
        log.warning(
            "A client asked for %r over TLS, which the certificate does not name. If it is to be "
            "answered, add it with --names.",
            name[:100],
        )
        return None

    made.sni_callback = asked
    return made


def _options(**more: Any) -> dict[str, Any]:
    """How uvicorn speaks HTTP."""
    return {
        "http": Protocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": _KEEP_ALIVE,
        **more,
    }


def _grace(plan: WorkerConfig) -> int | None:
    """For how many seconds a stop waits for downloads. A supervisor counts them itself, and a
    worker that it retires is not bounded."""
    return _GRACE if plan.workers == 1 else None


def run(plan: WorkerConfig, place: OpenedSources, listener: socket.socket) -> None:
    """Serve until a signal ends it, by one process or by several under a supervisor."""
    if plan.workers == 1:
        uvicorn.Server(_config(plan, place)).run([listener])
        return
    with tempfile.TemporaryDirectory(prefix="hubmirror-metrics-") as metrics:
        os.environ[METRICS_FOLDER] = metrics
        scratch = [place.scratch] if place.scratch else []
        plan = replace(plan, temporary=(Path(metrics), *scratch))
        others = [plan.tls.listener] if plan.tls else []
        Supervisor(_config(plan), listener, *others, grace=_GRACE).run()


def _config(plan: WorkerConfig, place: OpenedSources | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        partial(build_app, plan, place),
        factory=True,
        workers=plan.workers,
        timeout_graceful_shutdown=_grace(plan),
        **_options(),
    )
