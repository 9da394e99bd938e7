"""A client for small requests: a few lines of asyncio, to be run on uvloop in one process."""

from __future__ import annotations

import asyncio
import itertools
import re
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Case:
    """Requests of one kind without an end. A round goes on where the last stopped."""

    name: str
    status: int
    requests: Iterator[bytes]


def request(method: str, path: str, *headers: str) -> bytes:
    agent = "user-agent: unknown/None; hf_hub/2.4.0; python/3.11.7"
    lines = [f"{method} {path} HTTP/1.1", "host: mirror", agent, *headers, "", ""]
    return "\r\n".join(lines).encode()


class Load:
    """Keeps connections busy with a case's requests, until time or requests are used up."""

    def __init__(self, case: Case, seconds: float, most: int) -> None:
        self.expected = b"HTTP/1.1 %d " % case.status
        self.latencies: list[float] = []
        self._requests = itertools.islice(case.requests, most)
        self._seconds = seconds
        self._deadline = 0.0

    async def run(self, url: str, connections: int) -> tuple[float, ...]:
        """Requests a second, the median and the 99th percentile in seconds, our share of a core."""
        host, _, port = url.removeprefix("http://").partition(":")
        loop = asyncio.get_running_loop()
        begun, cpu = time.perf_counter(), time.process_time()
        self._deadline = begun + self._seconds
        opened = [
            await loop.create_connection(lambda: Connection(self), host, int(port))
            for _ in range(connections)
        ]
        await asyncio.gather(*(connection.done for _, connection in opened))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        p50, p99 = (statistics.quantiles(self.latencies, n=100)[n] for n in (49, 98))
        return len(self.latencies) / seconds, p50, p99, cpu / seconds

    def next(self) -> bytes | None:
        return next(self._requests, None) if time.perf_counter() < self._deadline else None


class Connection(asyncio.Protocol):
    """Sends the next request as soon as the last was answered."""

    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._load = load
        self._is_head = False
        self._sent = 0.0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._send()

    def _send(self) -> None:
        request = self._load.next()
        if request is None:
            self.transport.close()
            return
        self._answer, self._is_head = b"", request.startswith(b"HEAD")
        self._sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._is_whole():
            return
        self._load.latencies.append(time.perf_counter() - self._sent)
        if self._answer.startswith(self._load.expected):
            self._send()
        else:
            self.done.set_exception(
                RuntimeError(f"an answer that is wrong: {self._answer[:500]!r}")
            )

    def _is_whole(self) -> bool:
        end = self._answer.find(b"\r\n\r\n")
        if end < 0 or self._is_head:
            return end > 0
        length = _LENGTH.search(self._answer, 0, end)
        return len(self._answer) >= end + 4 + int(length[1] if length else 0)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for row in (columns, ["---", *["--:"] * (len(columns) - 1)], *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)
