"""A cache of responses, for about one second.

When a model starts, its client sends the same few requests many times, half of them for absent
files (vLLM: the same HEAD eleven times). Large files are downloaded in many ranges, or by many
hosts at once. A cached small response needs no thread and no disk read. For a cached large file,
only the file is opened again. Equal concurrent requests share one call of the handler. A response
is cached before its first byte is sent, so a client that does not read delays no other client.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import Response

from mirror.core.errors import UnavailableError
from mirror.web.file_response import BlobResponse, FileRequest
from mirror.web.reader import is_page, reader_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

_MAX_WEIGHT = 64 * 1024
_MAX_LONG_WEIGHT = 8 * 1024 * 1024
_LONG = frozenset({
    "tree", "listing", "info", "revision", "welcome", "browse", "repository", "files", "file",
})  # fmt: skip
"""Routes with long responses that are slow to make and that many hosts request at once."""
_MAX_BYTES = 64 * 1024 * 1024
_OVERHEAD = 1024
_MAX_FILES = 256
# The request headers that a response can depend on.
_VARY = frozenset({b"host", b"range", b"if-none-match", b"if-range"})
_HOST = frozenset({b"host"})
_FORWARDED = frozenset({b"x-forwarded-host", b"x-forwarded-proto"})  # believed of some clients
_WAIT_S = 10.0
"""The seconds that a request waits for an equal request; then it calls the handler itself."""

Key = tuple[object, ...]


class ResponseCache:
    """Responses to GET and HEAD by cache key. `ttl_s` is in seconds; 0 disables the cache."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._kept: OrderedDict[Key, tuple[float, str, Response]] = OrderedDict()
        self._bytes = 0
        self._in_flight: dict[Key, asyncio.Event] = {}
        self._files: OrderedDict[Key, tuple[float, str, Callable[[FileRequest], Response]]]
        self._files = OrderedDict()

    def get(self, key: Key) -> tuple[str, Response] | None:
        """The route and the response, if they are fresh."""
        kept = self._kept.get(key)
        if kept is None or time.monotonic() > kept[0]:
            return None
        return kept[1], kept[2]

    def find(self, scope: Scope) -> tuple[str, Response] | None:
        """The route and the response to an equal request, if it is cached."""
        return self.get(key_of(scope)) or self.reopen(scope)

    async def share(self, scope: Scope, respond: Callable[[], Awaitable[Response]]) -> Response:
        """The response to a cacheable request. `respond` is called once for all equal concurrent
        requests. Exceptions of `respond` are not cached."""
        if not self._ttl_s:
            return await respond()
        question = (scope["method"], scope["scheme"], scope["raw_path"])
        if event := self._in_flight.get(question):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_S):
                    await event.wait()
            if found := self.find(scope):
                return found[1]
        first = question not in self._in_flight
        if first:
            self._in_flight[question] = asyncio.Event()
        try:
            response = await respond()
            self._keep(scope, response)
            return response
        finally:
            if first:
                self._in_flight.pop(question).set()

    def reopen(self, scope: Scope) -> tuple[str, Response] | None:
        """The route and the response for a large file that was sent a short time ago."""
        kept = self._files.get(_file_key(scope))
        if kept is None or time.monotonic() > kept[0] or scope["method"] != "GET":
            return None
        headers = Headers(raw=scope["headers"])
        if "if-none-match" in headers:
            return None
        try:
            asked = FileRequest(headers.get("range"), headers.get("if-range"), on_loop=True)
            return kept[1], kept[2](asked)
        except UnavailableError:
            return None

    def _keep(self, scope: Scope, response: Response) -> None:
        """Cache a response if it is small and not a 5xx, or the function that reopens a large
        file."""
        key, route = key_of(scope), scope["state"].get("route", "none")
        if isinstance(response, BlobResponse) and self._ttl_s:
            file_key = _file_key(scope)
            self._files[file_key] = (time.monotonic() + self._ttl_s, route, response.reopen)
            self._files.move_to_end(file_key)
            if len(self._files) > _MAX_FILES:
                self._files.popitem(last=False)
        if type(response) is not Response or response.status_code >= 500 or not self._ttl_s:
            return
        if "x-accel-redirect" in response.headers:  # for a trusted proxy alone
            return
        if _weight(key, response) > (_MAX_LONG_WEIGHT if route in _LONG else _MAX_WEIGHT):
            return
        self._forget()
        self._drop(key)
        self._kept[key] = (time.monotonic() + self._ttl_s, route, response)
        self._bytes += _weight(key, response)
        while self._bytes > _MAX_BYTES:
            self._drop(next(iter(self._kept)))

    def _forget(self) -> None:
        """Drop the responses that are too old; they are the first entries."""
        while self._kept and time.monotonic() > next(iter(self._kept.values()))[0]:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> None:
        if kept := self._kept.pop(key, None):
            self._bytes -= _weight(key, kept[2])


def key_of(scope: Scope) -> Key:
    """The cache key of a request: all values that its response depends on."""
    return (scope["method"], scope["query_string"], *_varied(scope, _VARY))


def _file_key(scope: Scope) -> Key:
    """The key of a large file, for all its ranges. It contains the host, because links contain it,
    and the query, because it can contain a signature."""
    return (scope["query_string"], *_varied(scope, _HOST))


def _varied(scope: Scope, names: frozenset[bytes]) -> Iterator[object]:
    yield from (scope["scheme"], scope["raw_path"])
    for header in scope["headers"]:
        if header[0] in names:
            yield header
        elif header[0] in _FORWARDED:
            yield from (header, (scope.get("client") or ("",))[0])
        elif header[0] == b"accept" and is_page(header[1]):
            yield reader_key(scope)


def _weight(key: Key, response: Response) -> int:
    """The approximate memory of a response, in bytes."""
    return _OVERHEAD + len(response.body) + sum(len(str(part)) for part in key)


class CacheMiddleware:
    """ASGI middleware: sends the cached response, if there is one."""

    def __init__(self, app: ASGIApp, recent: ResponseCache) -> None:
        self._app = app
        self._recent = recent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kept = self._recent.find(scope)
        if kept is None:
            await self._app(scope, receive, send)
            return
        scope["state"]["route"], response = kept
        await response(scope, receive, send)
