"""The ASGI application: it calls the handler of each request."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mirror.core.errors import HubmirrorError, NotOfferedError, PendingError, ReadOnlyError
from mirror.core.source import client_token
from mirror.derived.catalog import Catalog
from mirror.derived.digests import Digests
from mirror.derived.xet_hashes import XetHashes
from mirror.openllm.served_files import OpenLLMFiles
from mirror.pages.status import StatusBoard
from mirror.web.access import Gate, given_token
from mirror.web.body import BodyReader
from mirror.web.cors import Cors
from mirror.web.errors import header_text
from mirror.web.observe import Logs, Metrics, Observe
from mirror.web.page_response import answer_error
from mirror.web.pages import Pages
from mirror.web.proxy import ProxySettings
from mirror.web.request import AppContext, HubRequest
from mirror.web.response_cache import CacheMiddleware, ResponseCache
from mirror.web.routes import ROUTER
from mirror.web.tree_cache import TreeCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from mirror.core.source import Source
    from mirror.derived.state import State
    from mirror.web.recorder import Recorder
    from mirror.web.routing import Match

_MAX_THREADS = 16  # more threads compete for the interpreter lock
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.25
_READS = ("GET", "HEAD")


class HubApp:
    """Responds to every route of the table. Handlers run in threads, because disk reads block."""

    def __init__(
        self, context: AppContext, recent: ResponseCache, recorder: Recorder | None = None
    ) -> None:
        self._context = context
        self._recent = recent
        self._recorder = recorder
        self._threads = anyio.CapacityLimiter(_MAX_THREADS)
        self._bodies = BodyReader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._find(request)
        except ClientDisconnect:
            return
        except HubmirrorError as exc:
            response = answer_error(exc, scope, self._context.proxy)
        await response(scope, receive, send)

    async def _find(self, request: Request) -> Response:
        """The response; equal concurrent requests can share one."""
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": "GET, HEAD, OPTIONS"})
        scope = request.scope
        match = _match(request.method, scope["raw_path"])
        scope["state"]["route"] = match.route.name
        if match.route.is_shared and request.method in _READS:
            return await self._recent.share(scope, lambda: self._respond(request, match))
        response = await self._respond(request, match)
        if match.route.vary:
            response.headers["vary"] = ", ".join(match.route.vary)
        return response

    async def _respond(self, request: Request, match: Match) -> Response:
        """The response of the handler, or the response for its error."""
        client_token.set(given_token(request.headers))
        hub_request = None
        try:
            hub_request = await self._read(request, match)
            response = (
                match.route.handler(hub_request)
                if match.route.is_inline
                else await self._run(hub_request)
            )
        except HubmirrorError as exc:
            response = answer_error(exc, request.scope, self._context.proxy)
        if hub_request is not None:
            self._after(hub_request, response)
        return response

    def _after(self, request: HubRequest, response: Response) -> None:
        """Add what the answer says beside its body, and record the request."""
        snapshot = request.asked.snapshot
        if snapshot is not None and snapshot.stale:
            response.headers["x-hubmirror-stale"] = header_text(snapshot.stale)
        if self._recorder is not None:
            self._recorder.add(request, response)

    async def _run(self, request: HubRequest) -> Response:
        """Call the handler in a thread. If it needs what another thread or process prepares, it is
        called again until that is there; between two calls it uses no thread."""
        route, started, pause = request.match.route, anyio.current_time(), _FIRST_PAUSE_S
        while True:
            try:
                return await anyio.to_thread.run_sync(route.handler, request, limiter=self._threads)
            except PendingError as exc:
                timeout_s = max(route.pending_timeout_s, exc.patience_s)
                if anyio.current_time() - started > timeout_s:
                    raise
            await anyio.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE_S)

    async def _read(self, request: Request, match: Match) -> HubRequest:
        body = b""
        if request.method == "POST":
            body = await self._bodies.read(request, match.route.max_body)
        scope = request.scope
        return HubRequest(
            self._context,
            match,
            scope,
            QueryParams(scope["query_string"]),
            Headers(raw=scope["headers"]),
            body,
        )


def _match(method: str, raw_path: bytes) -> Match:
    """The route of a request. Raises ReadOnlyError for every request that is not a read."""
    match = ROUTER.match(raw_path) if method in (*_READS, "POST") else None
    if method in _READS:
        if match is None:
            raise NotOfferedError
        return match
    if match is None or not match.route.max_body:
        raise ReadOnlyError
    return match


def create_app(
    source: Source,
    state: State,
    *,
    proxy: ProxySettings | None = None,
    xet_hashes: XetHashes | None = None,
    openllm_files: OpenLLMFiles | None = None,
    ttl_s: float = 1.0,
    logs: Logs | None = None,
    on_stop: Callable[[], None] = lambda: None,
) -> Starlette:
    """The whole server as an ASGI application; `on_stop` is called in a thread when it stops.

    `ttl_s` is the time in seconds for which responses and the listing of all repositories are
    cached. Without `xet_hashes`, no response offers Xet.
    """
    proxy, digests, logs = proxy or ProxySettings(), Digests(state), logs or Logs()
    openllm_files = openllm_files or OpenLLMFiles(state.folder / "nothing", digests)
    catalog = Catalog(source, state, ttl_s=ttl_s)
    board = StatusBoard(source, catalog, openllm_files.data, proxy.certificate)
    context = AppContext(
        source=source,
        catalog=catalog,
        state=state,
        xet_hashes=xet_hashes or XetHashes(digests, advertise=False),
        openllm_files=openllm_files,
        proxy=proxy,
        metrics=Metrics(catalog, board),
        trees=TreeCache(5 * ttl_s),
        pages=Pages(state, catalog, board),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        context.catalog.close()
        await anyio.to_thread.run_sync(on_stop)

    recent = ResponseCache(ttl_s if proxy.shares_answers else 0.0)
    middleware = [
        Middleware(Observe, metrics=context.metrics, log=logs.access, proxy=proxy),
        Middleware(Cors),
        Middleware(Gate, proxy=proxy, router=ROUTER),
        Middleware(CacheMiddleware, recent=recent),
    ]
    app = Starlette(middleware=middleware, lifespan=lifespan)
    app.router.default = HubApp(context, recent, logs.recorder)
    return app
