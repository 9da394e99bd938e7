"""The application: from a request to the function that answers it."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mirror.core.errors import (
    DigestPendingError,
    HubmirrorError,
    ReadOnlyError,
    RequestError,
    UnavailableError,
)
from mirror.derived.catalog import Catalog
from mirror.derived.digests import Digests
from mirror.derived.xet_hashes import XetHashes
from mirror.openllm.shelf import Shelf
from mirror.web import api, git, ollama, package_index, resolve, xet
from mirror.web.access import Gate, Signer
from mirror.web.body import BodyReader
from mirror.web.errors import error_response
from mirror.web.listing import listing
from mirror.web.observe import AccessLog, Metrics, Observe
from mirror.web.request import AppContext, HubRequest
from mirror.web.response_cache import CacheMiddleware, ResponseCache
from mirror.web.tree_cache import TreeCache
from mirror.web.urls import Target, parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from starlette.types import Receive, Scope, Send

    from mirror.core.source import Source
    from mirror.derived.state import State

_MAX_THREADS = 16  # more fight each other for the interpreter
# Seconds that an answer may wait for digests. Clients give up on a HEAD after ten; hf_xet waits for
# five minutes, and knows no plain way to a file whose hash the real hub told it.
_TIMEOUT_S = 5.0
_LONG_TIMEOUTS_S = {"reconstructions": 240.0}
_POLL_INTERVAL_S = 0.25
_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?")
_FORWARDED = frozenset({"x-forwarded-host", "x-forwarded-proto"})
_POSTED_READ = re.compile(rb"/paths-info(/|$)|/v1/telemetry$|/git-upload-pack$")
# What may be posted, and how many bytes.
_MAX_BODIES = {
    "paths-info": 8 * 1024 * 1024, "xet-telemetry": 1024 * 1024, "git-upload-pack": 1024 * 1024,
}  # fmt: skip
# What depends on more than the cache's key, or is as long as a client has patience.
_NOT_SHARED = frozenset({
    "manifests", "simple-index", "simple-project", "git-refs", "reconstructions",
})  # fmt: skip


def _own_address(scope: Scope) -> str:
    """For HTTP/1.0, which knows no Host header."""
    host, port = scope.get("server") or ("localhost", 80)
    return f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """How clients reach this server: the base of absolute links, and who may read.

    `public_url` where it is set; else the Host header, or X-Forwarded-Host and -Proto where the
    connection comes from one of the `trusted_proxies` (addresses and networks). `accel` is
    `nginx` where a trusted proxy is one that obeys X-Accel-Redirect.
    """

    public_url: str = ""
    trusted_proxies: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = field(
        default_factory=lambda: [ipaddress.ip_network(one) for one in ("127.0.0.0/8", "::1")]
    )
    accel: str = ""
    signer: Signer = field(default_factory=Signer)

    def base_url(self, scope: Scope, headers: Headers) -> str:
        if self.public_url:
            return self.public_url.rstrip("/")
        scheme, host = scope["scheme"], headers.get("host", _own_address(scope))
        if _FORWARDED.intersection(headers.keys()) and self.trusts(scope):
            host = headers.get("x-forwarded-host", host).split(",")[0].strip()
            scheme = headers.get("x-forwarded-proto", scheme).split(",")[0].strip()
        if not _HOST.fullmatch(host) or scheme not in ("http", "https"):
            raise RequestError("The Host header names no host.")
        return f"{scheme}://{host}"

    def trusts(self, scope: Scope) -> bool:
        """Whether the connection comes from a trusted proxy."""
        client = scope.get("client")
        if client is None:
            return True  # a Unix socket
        address = ipaddress.ip_address(client[0])
        return any(address in network for network in self.trusted_proxies)


ANSWERS: dict[str, Callable[[HubRequest], Response]] = {
    **api.ANSWERS,
    **xet.ANSWERS,
    **git.ANSWERS,
    **package_index.ANSWERS,
    "resolve": resolve.resolve,
    "raw": resolve.raw,
    "listing": listing,
    "manifests": ollama.manifest,
    "blobs": ollama.blob,
    "registry": ollama.registry,
    "identity": lambda call: api.json_response({"caches": call.context.source.identities()}),
    "welcome": lambda call: _welcome(call.base_url),
}


class HubApp:
    """Answers every route of the hub. Answers are made in a thread, since disks block."""

    def __init__(self, context: AppContext, proxy: ProxySettings, recent: ResponseCache) -> None:
        self._context = context
        self._proxy = proxy
        self._recent = recent
        self._threads = anyio.CapacityLimiter(_MAX_THREADS)
        self._bodies = BodyReader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            target = _target(request.method, scope["raw_path"])
            scope["state"]["route"] = target.action
            if request.method != "POST" and target.action not in _NOT_SHARED:
                response = await self._recent.share(scope, lambda: self._respond(request, target))
            else:
                response = await self._respond(request, target)
        except ClientDisconnect:
            return
        except HubmirrorError as exc:
            response = error_response(exc)
        await response(scope, receive, send)

    async def _respond(self, request: Request, target: Target) -> Response:
        """The answer, which is an error too."""
        try:
            call = await self._call(request, target)
            return await self._answer(ANSWERS.get(target.action, api.not_offered), call)
        except HubmirrorError as exc:
            return error_response(exc)

    async def _answer(self, answer: Callable[[HubRequest], Response], call: HubRequest) -> Response:
        """Make the answer in a thread; one that waits for digests waits here, and keeps none."""
        deadline = anyio.current_time() + _LONG_TIMEOUTS_S.get(call.target.action, _TIMEOUT_S)
        while True:
            try:
                return await anyio.to_thread.run_sync(answer, call, limiter=self._threads)
            except DigestPendingError:
                if anyio.current_time() > deadline:
                    raise
            await anyio.sleep(_POLL_INTERVAL_S)

    async def _call(self, request: Request, target: Target) -> HubRequest:
        body = b""
        if request.method == "POST":
            body = await self._bodies.read(request, _MAX_BODIES[target.action])
        headers = Headers(raw=request.scope["headers"])
        return HubRequest(
            context=self._context,
            target=target,
            query=QueryParams(request.scope["query_string"]),
            headers=headers,
            base_url=self._proxy.base_url(request.scope, headers),
            path=request.scope["raw_path"].decode("ascii"),
            body=body,
            head=request.method == "HEAD",
            accel=self._proxy.accel == "nginx" and self._proxy.trusts(request.scope),
        )


def _target(method: str, raw_path: bytes) -> Target:
    """What is asked for. All that is no read is refused in the same words."""
    is_read = method in ("GET", "HEAD")
    if is_read or (method == "POST" and _POSTED_READ.search(raw_path)):
        target = parse(raw_path)
        if is_read or target.action in _MAX_BODIES:
            return target
    raise ReadOnlyError


def create_app(
    source: Source,
    state: State,
    *,
    proxy: ProxySettings | None = None,
    xet_hashes: XetHashes | None = None,
    shelf: Shelf | None = None,
    ttl_s: float = 1.0,
    access_log: AccessLog | None = None,
    on_stop: Callable[[], None] = lambda: None,
) -> Starlette:
    """The whole server as an ASGI application; `on_stop` is called in a thread when it stops.

    `ttl_s` is for how many seconds an answer, and the listing of all repositories, is trusted.
    Without `xet_hashes` nobody is told of Xet.
    """
    proxy, digests = proxy or ProxySettings(), Digests(state)
    context = AppContext(
        source,
        Catalog(source, state, ttl_s=ttl_s),
        state,
        xet_hashes or XetHashes(digests, advertise=False),
        shelf or Shelf(state.folder / "nothing", digests),
        proxy.signer,
        TreeCache(5 * ttl_s),
    )
    metrics = Metrics(context.catalog)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        context.catalog.close()
        await anyio.to_thread.run_sync(on_stop)

    async def readyz(_: Request) -> Response:
        return await anyio.to_thread.run_sync(_ready, context)

    async def scrape(_: Request) -> Response:
        body = await anyio.to_thread.run_sync(metrics.render)
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")

    recent = ResponseCache(ttl_s)
    middleware = [
        Middleware(Observe, metrics=metrics, log=access_log),
        Middleware(Gate, signer=context.signer),
        Middleware(CacheMiddleware, recent=recent),
    ]
    app = Starlette(
        routes=[
            Route("/healthz", _healthz),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
        ],
        middleware=middleware,
        lifespan=lifespan,
    )
    app.router.default = HubApp(context, proxy, recent)
    return app


async def _healthz(_: Request) -> Response:
    return PlainTextResponse("ok\n")


def _ready(context: AppContext) -> Response:
    """Ready where every source can be listed."""
    try:
        count = sum(1 for _ in context.source.repos())
    except UnavailableError as exc:
        return PlainTextResponse(f"{exc}\n", 503)
    return PlainTextResponse(f"ready: {count} repositories\n")


def _welcome(base: str) -> Response:
    return PlainTextResponse(
        "This is hubmirror, a local Hugging Face hub. On a client:\n\n"
        f"  export HF_ENDPOINT={base}\n"
        "  hf download ORG/NAME\n\n"
        f"What is here: {base}/api/models\n"
    )
