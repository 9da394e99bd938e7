"""One log line a request, and the numbers behind `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

import orjson
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from mirror.web.page_response import answer_error
from mirror.web.site_metrics import SiteCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mirror.derived.catalog import Catalog
    from mirror.pages.status import StatusBoard
    from mirror.web.proxy import ProxySettings
    from mirror.web.recorder import Recorder

log = logging.getLogger("hubmirror")

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported
_GONE = 499  # the client left before the answer began
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Prometheus metrics: of this process, or of all that share the metrics folder."""

    def __init__(self, catalog: Catalog, board: StatusBoard) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "hubmirror_requests", "Requests answered.", ["method", "route", "status"],
            registry=self._registry,
        )  # fmt: skip
        self.errors = Counter(
            "hubmirror_errors", "Answers of status 400 and up.", ["code"],
            registry=self._registry,
        )  # fmt: skip
        self.sent = Counter(
            "hubmirror_sent_bytes", "Bytes of bodies sent.", ["route"], registry=self._registry
        )
        self.latency = Histogram(
            "hubmirror_response_start_seconds", "Seconds until an answer began.", ["route"],
            buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._catalog = catalog
        self._board = board
        self._found: dict[tuple[str, str, int], tuple[Counter, Histogram, Counter]] = {}

    def count(self, seen: RequestLog) -> None:
        """Add a request that was answered."""
        key = (seen.method, seen.route, seen.status)
        found = self._found.get(key)
        if found is None:
            labels = (
                self.requests.labels(*key),
                self.latency.labels(seen.route),
                self.sent.labels(seen.route),
            )
            found = self._found[key] = labels
        requests, latency, sent = found
        requests.inc()
        latency.observe(seen.began - seen.started)
        if seen.sent:
            sent.inc(seen.sent)
        if seen.status >= 400:
            self.errors.labels(seen.code if seen.code != "-" else str(seen.status)).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes. It looks at no repository."""
        registry = CollectorRegistry()
        registry.register(_Revisions(self._catalog))
        registry.register(SiteCollector(self._board))
        if shared := os.environ.get(METRICS_FOLDER):
            MultiProcessCollector(registry, shared)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self._registry) + generate_latest(registry)


class _Revisions:
    """The revisions that the last look at all repositories found, and the age of that look."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[GaugeMetricFamily]:
        look = self._catalog.last_look()
        if math.isinf(look.age):
            return  # the first look is under way
        revisions = GaugeMetricFamily(
            "hubmirror_revisions", "Revisions that can be read, and that wait for files.",
            labels=["state"],
        )  # fmt: skip
        revisions.add_metric(["visible"], look.visible)
        revisions.add_metric(["waiting"], look.waiting)
        yield revisions
        yield GaugeMetricFamily(
            "hubmirror_revisions_age_seconds", "Seconds since revisions were counted.", look.age
        )

    def describe(self) -> list[GaugeMetricFamily]:
        return []


class Observe:
    """ASGI middleware: counts and logs what the application answers."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, log: AccessLog | None, proxy: ProxySettings
    ) -> None:
        self._app = app
        self._proxy = proxy
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        seen = RequestLog(scope, send, self._proxy)
        try:
            await self._app(scope, receive, seen.send)
        except Exception as exc:
            log.exception("Request %s failed.", seen.request_id)
            if seen.status != _GONE:
                raise  # the answer had begun: the connection is closed
            await answer_error(exc, scope, self._proxy)(scope, receive, seen.send)
        finally:
            self._metrics.count(seen)
            if self._log is not None:
                self._log.add(seen)


@dataclass(frozen=True, slots=True)
class Logs:
    """What is written about requests: a line for each, and for `hubmirror record` what clients ask
    for."""

    access: AccessLog | None = None
    recorder: Recorder | None = None


class RequestLog:
    """The data of one request for the log and the metrics. From the client's headers it contains
    only the user agent and, from trusted proxies, the client address."""

    __slots__ = (
        "_proxy", "_scope", "_send", "began", "code", "method", "request_id", "sent", "started",
        "status",
    )  # fmt: skip

    def __init__(self, scope: Scope, send: Send, proxy: ProxySettings) -> None:
        self._scope = scope
        self._proxy = proxy
        self._send = send
        self.method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.started = self.began = time.perf_counter()
        self.status = _GONE
        self.sent = 0
        self.code = "-"
        self.request_id = f"{random.getrandbits(48):012x}"

    @property
    def route(self) -> str:
        """The action that the URL asked for, where it was understood."""
        return str(self._scope["state"].get("route", "none"))

    @property
    def client(self) -> str:
        """The address of the client, behind trusted proxies too."""
        return self._proxy.client(self._scope, self._header(b"x-forwarded-for"))

    @property
    def path(self) -> str:
        """Without the query, which may hold anything."""
        return str(self._scope["raw_path"].decode("ascii", "backslashreplace"))

    @property
    def agent(self) -> str:
        return self._header(b"user-agent") or "-"

    def _header(self, wanted: bytes) -> str:
        for name, value in self._scope["headers"]:
            if name == wanted:
                return str(value[:200].decode("ascii", "backslashreplace"))
        return ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = time.perf_counter()
            self.status = message["status"]
            if self.status >= 400:
                self.code = dict(message["headers"]).get(b"x-error-code", b"-").decode()
                named = (b"x-request-id", self.request_id.encode())
                message = {**message, "headers": [*message["headers"], named]}
        elif self.method != "HEAD":
            self.sent += len(message.get("body", b""))
        await self._send(message)
        self.sent += message.get("sent", 0)  # by zero copy


class AccessLog:
    """One line a request, in text or as JSON; written once in a turn of the event loop.

    The logging module would cost a small answer as much as all else does together.
    """

    def __init__(self, stream: TextIO, log_format: str) -> None:
        self._stream = stream
        self._line = _json_line if log_format == "json" else _text_line
        self._lines: list[str] = []
        self._second = 0
        self._moment = ""

    def add(self, seen: RequestLog) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(self._line(self._now(), seen))

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        with contextlib.suppress(OSError):
            self._stream.write("".join(lines))
            self._stream.flush()

    def _now(self) -> str:
        """Now, in UTC, to the second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._moment = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._moment


def _text_line(moment: str, seen: RequestLog) -> str:
    seconds = time.perf_counter() - seen.started
    return (
        f"{moment} {seen.client} {seen.method} {seen.path} {seen.status} {seen.code} {seen.sent}B "
        f"{seconds:.3f}s {seen.request_id} {seen.agent}\n"
    )


def _json_line(moment: str, seen: RequestLog) -> str:
    fields = {
        "time": moment,
        "client": seen.client,
        "method": seen.method,
        "path": seen.path,
        "status": seen.status,
        "code": seen.code,
        "bytes": seen.sent,
        "seconds": round(time.perf_counter() - seen.started, 6),
        "request_id": seen.request_id,
        "agent": seen.agent,
    }
    return orjson.dumps(fields).decode() + "\n"


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class JsonFormatter(logging.Formatter):
    """Other log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = {"time": moment, "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()
