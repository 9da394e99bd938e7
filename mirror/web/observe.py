"""One log line a request, and the numbers behind `/metrics`."""

from __future__ import annotations

import logging
import os
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mirror.catalog import Catalog

log = logging.getLogger("hubmirror.access")

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported
_LINE = (
    "%(client)s %(method)s %(path)s %(status)d %(code)s %(bytes)dB %(seconds).3fs %(request_id)s "
    "%(agent)s"
)
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Prometheus metrics: of this process, or of all that share the metrics folder."""

    def __init__(self, catalog: Catalog) -> None:
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

    def render(self) -> bytes:
        """The text that Prometheus scrapes. Blocks: it looks at every repository."""
        registry = CollectorRegistry()
        registry.register(_Revisions(self._catalog))
        if shared := os.environ.get(METRICS_FOLDER):
            MultiProcessCollector(registry, shared)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self._registry) + generate_latest(registry)


class _Revisions:
    """Counts revisions when it is scraped."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauge = GaugeMetricFamily(
            "hubmirror_revisions", "Revisions that can be read, and that wait for files.",
            labels=["state"],
        )  # fmt: skip
        entries = self._catalog.entries()
        gauge.add_metric(["visible"], sum(entry.visible for entry in entries))
        gauge.add_metric(["waiting"], sum(entry.waiting for entry in entries))
        yield gauge

    def describe(self) -> list[GaugeMetricFamily]:
        return []


class Observe:
    """ASGI middleware: counts and logs what the application answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        seen = _Seen(scope, send)
        try:
            await self._app(scope, receive, seen.send)
        finally:
            self._count(seen)
            if log.isEnabledFor(logging.INFO):
                log.info(_LINE, seen.fields())

    def _count(self, seen: _Seen) -> None:
        metrics, route = self._metrics, seen.route
        metrics.requests.labels(seen.method, route, seen.status).inc()
        metrics.latency.labels(route).observe(seen.began - seen.started)
        if seen.sent:
            metrics.sent.labels(route).inc(seen.sent)
        if seen.status >= 400:
            metrics.errors.labels(seen.code or str(seen.status)).inc()


class _Seen:
    """What is to be known of one request. Never a header of the client but its user agent."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.started = self.began = time.perf_counter()
        self.status = 499  # the client left before the answer began
        self.sent = 0
        self.code = ""
        self.request_id = f"{random.getrandbits(48):012x}"

    @property
    def route(self) -> str:
        """The action that the URL asked for, where it was understood."""
        return str(self._scope["state"].get("route", "none"))

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = time.perf_counter()
            self.status = message["status"]
            if self.status >= 400:
                self.code = dict(message["headers"]).get(b"x-error-code", b"").decode()
                named = (b"x-request-id", self.request_id.encode())
                message = {**message, "headers": [*message["headers"], named]}
        elif self.method != "HEAD":
            self.sent += len(message.get("body", b""))
        await self._send(message)
        self.sent += message.get("sent", 0)  # by zero copy

    def fields(self) -> dict[str, Any]:
        """For a log line; without the query, which may hold anything."""
        agent = next((v for k, v in self._scope["headers"] if k == b"user-agent"), b"-")
        return {
            "client": (self._scope.get("client") or "-")[0],
            "method": self._scope["method"],
            "path": self._scope["raw_path"].decode("ascii", "backslashreplace"),
            "status": self.status,
            "code": self.code or "-",
            "bytes": self.sent,
            "seconds": round(time.perf_counter() - self.started, 6),
            "request_id": self.request_id,
            "agent": agent.decode("ascii", "backslashreplace")[:200],
        }


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class JsonFormatter(logging.Formatter):
    """Log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = record.args if isinstance(record.args, dict) else {"message": record.getMessage()}
        if record.exc_info:
            fields = {**fields, "traceback": self.formatException(record.exc_info)}
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return orjson.dumps({"time": moment, "level": record.levelname, **fields}).decode()
