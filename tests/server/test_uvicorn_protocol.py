"""What uvicorn leaves open: heads that never end, and connections on which nothing comes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mirror.core.blob import LocalBlob
from mirror.web.file_response import ZERO_COPY
from tests.servers import run_server


async def _ok(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await Request(scope, receive).body()
        await PlainTextResponse("ok")(scope, receive, send)


_UNREADABLE = Path("/proc/self/mem")


@pytest.fixture
def port() -> Iterator[int]:
    """A server that waits a second for a request."""
    with run_server(_ok, timeout_keep_alive=1, lifespan="off") as url:
        yield int(url.rpartition(":")[2])


def _answer(port: int, *parts: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\nA: "])
def test_a_request_that_never_comes_is_not_waited_for(port: int, sent: bytes) -> None:
    assert _answer(port, sent) == b""


def test_a_head_that_never_ends_is_refused(port: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: " + 70_000 * b"a"
    assert _answer(port, head).startswith(b"HTTP/1.1 431 ")


def test_a_long_body_is_no_head(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 200000\r\n\r\n"
    assert _answer(port, head, 200_000 * b"a").startswith(b"HTTP/1.1 200 ")


def test_many_requests_on_one_connection_are_no_head(port: int) -> None:
    one = b"GET / HTTP/1.1\r\nHost: x\r\nA: " + 900 * b"a" + b"\r\n\r\n"
    assert _answer(port, *[one] * 100).count(b"HTTP/1.1 200 ") == 100


async def _unreadable(scope: Scope, receive: Receive, send: Send) -> None:
    """A file that gives an error of the kernel when it is read."""
    with closing(LocalBlob(os.open(_UNREADABLE, os.O_RDONLY), 1000)) as file:
        headers = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": ZERO_COPY, "file": file, "offset": 0, "parts": [(b"", 1000)]})


def test_a_read_error_in_the_middle_closes_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with run_server(_unreadable, lifespan="off") as url:
        answer = _answer(int(url.rpartition(":")[2]), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")
    assert "not sent to its end" in caplog.text
