"""A client that stops in the middle keeps no other waiting, and takes no memory without a bound."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.server import uvicorn_protocol as protocol
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web import body as body_module
from mirror.web.app import create_app
from mirror.web.file_response import ZERO_COPY
from tests.folders import FILES, Content, make_classic, make_managed
from tests.servers import run_command, run_server

HEAD = b"Host: x\r\nConnection: close\r\n"


@pytest.fixture
def url(hub: Path, state: State, digests: Digests) -> Iterator[str]:
    """A server that keeps answers, and so lets requests share them."""
    make_classic(hub)
    source = HfCache(hub, digests, managed=False)
    with run_server(create_app(FirstFound([source]), state), lifespan="off") as url:
        yield url


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


POST = "/api/models/Org/Model/paths-info/main"


def test_a_body_that_never_ends_blocks_nobody(url: str) -> None:
    with connected(url) as stalled:
        stalled.sendall(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n" % POST.encode()
        )
        time.sleep(0.3)
        answer = httpx2.post(f"{url}{POST}", data={"paths": ["config.json"]}, timeout=20)
    assert [row["path"] for row in answer.json()] == ["config.json"]


def test_a_body_has_a_deadline(
    hub: Path, state: State, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module.BodyReader.__init__, "__defaults__", (0.3, 1000))
    make_classic(hub)
    app = create_app(FirstFound([HfCache(hub, digests, managed=False)]), state)
    start = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n" % POST.encode()
    with run_server(app, lifespan="off") as url:
        with connected(url) as slow:
            slow.sendall(start + b"paths=")
            assert read_all(slow).startswith(b"HTTP/1.1 408 ")
        with connected(url) as large:
            large.sendall(start + 2000 * b"a")
            assert large.recv(1000).startswith(b"HTTP/1.1 503 ")
        answer = httpx2.post(f"{url}{POST}", data={"paths": ["config.json"]}, timeout=20)
        assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/api/models", "/Org/Model/resolve/main/config.json"])
def test_answers_that_nobody_reads_block_nobody(url: str, path: str) -> None:
    one = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()
    with connected(url) as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        unread.settimeout(1)
        with contextlib.suppress(TimeoutError):
            for _ in range(400):
                unread.sendall(100 * one)
        assert httpx2.get(f"{url}{path}", timeout=20).status_code == 200


def test_a_client_that_reads_nothing_is_cut_off(
    hub: Path, state: State, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_SEND_TIMEOUT_S", 0.5)
    make_classic(hub, Content({f"{number:05}.txt": b"x" for number in range(20_000)}))
    app = create_app(FirstFound([HfCache(hub, digests, managed=False)]), state)
    with run_server(app, lifespan="off", timeout_keep_alive=1) as url, connected(url) as unread:
        unread.sendall(40 * b"GET /api/models/Org/Model/tree/main HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(8)
        assert len(read_all(unread)) < 20_000_000  # of more than 30 MB


async def _ok(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        body = await Request(scope, receive).body()
    except ClientDisconnect:
        return
    await PlainTextResponse(f"{len(body)} {len(scope['headers'])}")(scope, receive, send)


@pytest.fixture
def plain_url() -> Iterator[str]:
    with run_server(_ok, lifespan="off") as url:
        yield url


CHUNKED = b"POST / HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def test_trailers_are_bounded_and_not_kept(plain_url: str) -> None:
    with connected(plain_url) as connection:
        connection.sendall(CHUNKED + b"1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n")
        assert read_all(connection).endswith(b"1 3")
    for line in (b"A: b\r\n", b"a"):
        with connected(plain_url) as connection:
            connection.sendall(CHUNKED + b"1\r\nx\r\n0\r\nA: ")
            with pytest.raises(ConnectionError):  # noqa: PT012
                for _ in range(100):
                    connection.sendall(100_000 // len(line) * line)
                    time.sleep(0.001)


def test_chunks_of_one_byte_are_taken(plain_url: str) -> None:
    with connected(plain_url) as connection:
        connection.sendall(CHUNKED + 200_000 * b"1\r\nx\r\n" + b"0\r\n\r\n")
        assert read_all(connection).endswith(b"200000 3")


def test_memory_is_bounded_while_bodies_are_held_open(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    start = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n" % POST.encode()
    with run_command(tmp_path, "--workers", "1") as command, contextlib.ExitStack() as stack:
        before = resident(command.process.pid)
        for _ in range(30):
            connection = stack.enter_context(connected(command.url))
            connection.settimeout(2)
            with contextlib.suppress(OSError):
                connection.sendall(start + 8_000_000 * b"a")
        assert resident(command.process.pid) - before < 90_000_000
        assert httpx2.get(f"{command.url}/healthz", timeout=20).status_code == 200


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_head_that_comes_byte_by_byte_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_TIMEOUT_S", 1.0)
    with run_server(_ok, lifespan="off") as url, connected(url) as connection:
        began = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012
            while time.monotonic() < began + 15:
                connection.sendall(b"a")
                time.sleep(0.2)
        assert time.monotonic() < began + 10


def test_garbage_after_a_request_costs_no_answer(
    plain_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    for sent, count in ((good, 1), (good + good, 2)):
        with connected(plain_url) as connection:
            connection.sendall(sent + b"\x00 this is not HTTP\r\n\r\n")
            assert read_all(connection).count(b"HTTP/1.1 200 OK") == count
    assert "Traceback" not in caplog.text


def test_a_body_that_is_broken_is_refused_at_once(
    plain_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(plain_url) as connection:
        connection.sendall(CHUNKED + b"1\r\nx\r\nnonsense\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in caplog.text


def test_a_client_that_has_said_all_may_still_read(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    path = b"/Org/Model/resolve/main/model.safetensors"
    with run_command(tmp_path, "--workers", "1") as command:
        for request in (b"GET /healthz", b"GET " + path):
            with connected(command.url) as connection:
                connection.sendall(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                body = read_all(connection).partition(b"\r\n\r\n")[2]
            assert body in (b"ok\n", FILES["model.safetensors"])


def test_a_file_for_a_client_that_is_gone_costs_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client resets its connection while the file is opened."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    answered = threading.Event()

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        with (tmp_path / "file").open("rb") as file:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": ZERO_COPY, "file": file, "offset": 0, "parts": [(b"", 1000)]})
        answered.set()

    with run_server(late, lifespan="off") as url:
        with connected(url) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            reset = b"\x01\0\0\0\0\0\0\0"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        assert answered.wait(20)
    assert caplog.text == ""


def test_a_client_that_is_gone_costs_no_traceback(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(200):
        with connected(url) as connection:
            connection.sendall(b"GET /api/models/Org/Model HTTP/1.1\r\nHost: x\r\n\r\n")
            reset = b"\x01\0\0\0\0\0\0\0"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    time.sleep(0.5)
    assert "Traceback" not in caplog.text
    assert httpx2.get(f"{url}/healthz").status_code == 200
