"""Files on their way to a socket: by the kernel, and by the way that other servers take."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from mirror.derived.state import State
from mirror.server import uvicorn_protocol as protocol
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from tests.folders import MODEL, Content, make_classic
from tests.servers import run_server, slow_sockets
from tests.waiting import until

SIZE = 24 * 1024 * 1024
BODY = os.urandom(1024 * 1024) * (SIZE >> 20)
PATH = "/Org/Model/resolve/main/model.bin"


@pytest.fixture(params=["uvloop", "asyncio"])
def client(
    request: pytest.FixtureRequest, hub: Path, foreign: HfCache, state: State
) -> Iterator[httpx2.Client]:
    """A client of a server that has no more tasks after a test than it had before."""
    make_classic(hub, Content({"model.bin": BODY, "small.txt": b"small"}))
    app = create_app(FirstFound([foreign]), state, ttl_s=0)
    loops: list[asyncio.AbstractEventLoop] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            loops.append(asyncio.get_running_loop())
        await app(scope, receive, send)

    with run_server(watched, loop=request.param) as url, httpx2.Client(base_url=url) as client:
        before = len(asyncio.all_tasks(loops[0]))
        yield client
        until(lambda: len(asyncio.all_tasks(loops[0])) <= before)


@pytest.fixture
def blob(hub: Path, client: httpx2.Client) -> Path:
    entry = Content({"model.bin": BODY}).entries["model.bin"]
    return hub / MODEL.folder_name / "blobs" / entry.etag


@pytest.fixture
def connect(client: httpx2.Client) -> Iterator[Callable[[], socket.socket]]:
    with slow_sockets(client.base_url.port) as connect:
        yield connect


def _get(path: str = PATH, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def _read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def _descriptors() -> set[str]:
    """The files that this process, which the server is part of, has open."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(one.readlink()))
    return found


def test_a_large_file(client: httpx2.Client) -> None:
    assert client.get(PATH).content == BODY


def test_a_range_of_a_large_file(client: httpx2.Client) -> None:
    answer = client.get(PATH, headers={"range": f"bytes=1000000-{SIZE - 7}"})
    assert answer.content == BODY[1000000 : SIZE - 6]


def test_a_file_that_is_not_in_memory(client: httpx2.Client, blob: Path) -> None:
    with blob.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert client.get(PATH).content == BODY


def test_another_request_on_the_same_connection(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(_get() + _get("/Org/Model/resolve/main/small.txt", "Connection: close"))
    first, _, rest = _read_all(connection).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert rest[:SIZE] == BODY
    assert rest[SIZE:].startswith(b"HTTP/1.1 200 OK")
    assert rest.endswith(b"\r\n\r\nsmall")


def test_a_slow_reader_gets_every_byte(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(_get(PATH, "Connection: close"))
    time.sleep(0.3)
    assert _read_all(connection).endswith(BODY)


def test_a_reader_that_half_closes_gets_an_end(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(_get())
    connection.shutdown(socket.SHUT_WR)
    assert BODY.startswith(_read_all(connection).partition(b"\r\n\r\n")[2][:SIZE])


def test_clients_that_leave_leave_nothing_behind(
    blob: Path, connect: Callable[[], socket.socket]
) -> None:
    readers = [connect() for _ in range(20)]
    for reader in readers:
        reader.sendall(_get())
        reader.recv(1000)
    assert str(blob) in _descriptors()
    for reader in readers:
        reader.close()
    until(lambda: str(blob) not in _descriptors())


def test_a_reset_closes_the_file(blob: Path, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(_get())
    connection.recv(1000)
    assert str(blob) in _descriptors()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    until(lambda: str(blob) not in _descriptors())


def test_a_file_that_becomes_shorter_is_never_padded(
    blob: Path, connect: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    connection = connect()
    connection.sendall(_get())
    connection.recv(1000)
    os.truncate(blob, SIZE // 2)
    with suppress(ConnectionResetError):
        assert len(_read_all(connection)) < SIZE
    until(lambda: "became shorter" in caplog.text)
    until(lambda: str(blob) not in _descriptors())


def test_a_file_that_is_replaced_is_sent_as_it_was(
    blob: Path, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    connection.sendall(_get(PATH, "Connection: close"))
    connection.recv(1)
    other = blob.with_name("other")
    other.write_bytes(b"\0" * SIZE)
    other.rename(blob)
    assert _read_all(connection).endswith(BODY)


def test_a_file_that_grows_is_sent_as_it_was(
    client: httpx2.Client, blob: Path, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    connection.sendall(_get(PATH, "Connection: close"))
    connection.recv(1)
    with blob.open("ab") as file:
        file.write(b"more")
    assert _read_all(connection).endswith(BODY)
    assert client.get(PATH).status_code in (200, 503)


def test_a_file_that_is_removed_is_sent_as_it_was(
    client: httpx2.Client, blob: Path, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    connection.sendall(_get(PATH, "Connection: close"))
    connection.recv(1)
    blob.unlink()
    assert _read_all(connection).endswith(BODY)
    assert client.get(PATH).status_code in (404, 503)


def test_a_client_that_takes_nothing_is_left(
    blob: Path, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_FILE_TIMEOUT_S", 0.2)
    connect().sendall(_get())
    until(lambda: str(blob) in _descriptors())
    until(lambda: str(blob) not in _descriptors())


def test_thousands_of_idle_connections(
    client: httpx2.Client, connect: Callable[[], socket.socket]
) -> None:
    idle = [connect() for _ in range(1000)]
    assert client.get(PATH).content == BODY
    idle[-1].sendall(_get("/healthz", "Connection: close"))
    assert _read_all(idle[-1]).endswith(b"ok\n")


def test_a_flood_of_ranges(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    ranges = [f"Range: bytes={place}-{place}" for place in range(400)]
    last = _get(PATH, "Range: bytes=0-0", "Connection: close")
    connection.sendall(b"".join(_get(PATH, one) for one in ranges) + last)
    assert _read_all(connection).count(b"HTTP/1.1 206") == 401


@pytest.mark.parametrize("asked", ["", f"bytes=5-{SIZE - 5}"])
def test_a_server_without_zero_copy(hub: Path, foreign: HfCache, state: State, asked: str) -> None:
    make_classic(hub, Content({"model.bin": BODY}))
    app = create_app(FirstFound([foreign]), state, ttl_s=0)
    with run_server(app, http="h11") as url:
        answer = httpx2.get(url + PATH, headers={"range": asked})
    assert answer.content == (BODY[5 : SIZE - 4] if asked else BODY)


def test_a_file_that_becomes_shorter_without_zero_copy(
    hub: Path, foreign: HfCache, state: State
) -> None:
    folder = make_classic(hub, Content({"model.bin": BODY}))
    (blob,) = (folder / "blobs").iterdir()
    app = create_app(FirstFound([foreign]), state, ttl_s=0)
    with run_server(app, http="h11") as url, httpx2.stream("GET", url + PATH) as answer:
        os.truncate(blob, SIZE // 2)
        with pytest.raises(httpx2.RemoteProtocolError):
            answer.read()


def test_a_client_that_leaves_without_zero_copy(hub: Path, foreign: HfCache, state: State) -> None:
    folder = make_classic(hub, Content({"model.bin": BODY}))
    (blob,) = (folder / "blobs").iterdir()
    app = create_app(FirstFound([foreign]), state, ttl_s=0)
    with run_server(app, http="h11") as url:
        with httpx2.stream("GET", url + PATH) as answer:
            chunks = answer.iter_raw(1000)
            next(chunks)
            assert str(blob) in _descriptors()
        until(lambda: str(blob) not in _descriptors())
