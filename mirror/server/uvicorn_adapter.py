"""Sets up uvicorn, also with parts that are not in its public API.

Beside `uvicorn_protocol`, which builds on `HttpToolsProtocol` and `RequestResponseCycle`, these are
`Config.load`, `Config.lifespan_class`, `Server.startup`, `Server.main_loop`, `Server.shutdown` and
`Server.started`: a second server on one loop, for https. pyproject.toml bounds the versions, and
`check` says what an installed one lacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from typing import TYPE_CHECKING, Any

import uvicorn

from mirror.core.errors import ConfigError
from mirror.server.uvicorn_protocol import Protocol, missing_parts

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from starlette.applications import Starlette

log = logging.getLogger("hubmirror")

_KEEP_ALIVE_S = 75
_SERVER_PARTS = ("startup", "main_loop", "shutdown")


def check() -> None:
    """Raises ConfigError if the installed uvicorn lacks a part that is used here."""
    absent = [f"Server.{name}" for name in _SERVER_PARTS if not hasattr(uvicorn.Server, name)]
    absent += missing_parts()
    if absent:
        raise ConfigError(
            f"uvicorn {uvicorn.__version__} lacks {', '.join(absent)}, which hubmirror uses. "
            "Install a version within the bounds of hubmirror's own requirements."
        )


def make_server(app: Starlette, grace: int | None) -> uvicorn.Server:
    """A server of the application; a stop waits `grace` seconds for downloads, or for all."""
    return uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=grace, **_options()))


def add_https(
    app: Starlette,
    listener: socket.socket,
    certificate: Path,
    names: Sequence[str],
    grace: int | None,
) -> None:
    """Have an application served over TLS as well, for as long as it is served."""
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def both(one: Starlette) -> AsyncIterator[Any]:
        context = _context(certificate, names)
        async with inner(one) as state, _https(one, listener, context, grace):
            yield state

    app.router.lifespan_context = both


@contextlib.asynccontextmanager
async def _https(
    app: Starlette, listener: socket.socket, context: ssl.SSLContext, grace: int | None
) -> AsyncIterator[None]:
    """Another server on the same loop."""
    config = uvicorn.Config(app, timeout_graceful_shutdown=grace, **_options(lifespan="off"))
    config.load()
    config.ssl = context
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    loop = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        server.should_exit = True
        await loop
        await server.shutdown([listener])


def _context(certificate: Path, names: Sequence[str]) -> ssl.SSLContext:
    """The TLS context of a listener. If a client requests a name that is not listed, it gets a
    certificate that does not match and reports the error; the log has the next step."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate)
    listed = {name.lower() for name in names}

    def asked(_: ssl.SSLObject | ssl.SSLSocket, name: str | None, __: ssl.SSLContext) -> int | None:
        if name is None or name.lower() in listed:
            return None
        log.warning(
            "A client asked for %r over TLS, which the certificate does not name. If it is to be "
            "answered, add it with --names.",
            name[:100],
            extra={"is_distinct": True},
        )
        return None

    made.sni_callback = asked
    return made


def _options(**more: Any) -> dict[str, Any]:
    """The options of uvicorn's HTTP server."""
    return {
        "http": Protocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": _KEEP_ALIVE_S,
        **more,
    }
