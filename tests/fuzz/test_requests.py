"""Requests that are wrong at random, sent to a real server, which goes on as if nothing was."""

from __future__ import annotations

import itertools
import os
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.attacks.raw import connect, exchange, read
from tests.folders import COMMIT, FILES, MODEL, Content, make_managed, make_plain, write
from tests.fuzz.mutation import FACTOR, ODD_STRINGS, count, mutate_bytes
from tests.servers import run_command
from tests.waiting import until
from tests.wheels import make_wheel

# Seeds that failed once.
FOUND: tuple[int, ...] = ()
CONNECTIONS = count(400)
MAX_GROWTH = 64 * 1024 * 1024
ROOT = Path(__file__).parents[2]
PATHS = (
    "/", "/healthz", "/readyz", "/metrics", "/api/models", "/api/models?search=o&limit=1&full=true",
    "/api/datasets", "/api/models/Org/Model", "/api/models/Org/Model?expand[]=siblings&blobs=true",
    f"/api/models/Org/Model/revision/{COMMIT}",
    "/api/models/Org/Model/tree/main?recursive=1&limit=2",
    "/api/models/Org/Model/tree/main/sub%20dir?cursor=1", "/api/models/Org/Model/refs",
    "/api/models/Org/Model/commits/main?p=0", "/api/models/Org/Model/treesize/main/sub%20dir",
    "/api/models/Org/Model/paths-info/main", "/api/whoami-v2", "/api/models-tags-by-type",
    f"/api/models/Org/Model/xet-read-token/{COMMIT}", "/Org/Model/resolve/main/config.json",
    "/Org/Model/resolve/main/model.safetensors", "/Org/Model/raw/main/model.safetensors",
    f"/api/resolve-cache/models/Org/Model/{COMMIT}/empty.txt", "/-/identity", "/-/simple/",
    f"/-/cas/models/Org/Model/{COMMIT}/v2/reconstructions/{64 * 'a'}", "/-/simple/tiny-a/",
    f"/-/cas/models/Org/Model/{COMMIT}/blocks/{64 * 'a'}/0/model.safetensors", "/v2/",
    "/-/git/github.com/a/b/info/refs?service=git-upload-pack", "/v2/Org/Model/manifests/main",
    "/-/git/github.com/a/b/git-upload-pack", f"/v2/Org/Model/blobs/sha256:{64 * 'a'}",
    "/-/constraints/a.txt", "/-/wheels/tiny_a-1.0-py3-none-any.whl", "/v1/telemetry",
    "/Org/Plain/resolve/main/config.json", "/api/models/Org/Plain/tree/main", "/nowhere/at/all",
)  # fmt: skip
FIELDS = ("limit", "cursor", "search", "expand", "sort", "p", "service", "author", "expand[]")
VALUES = ("-1", "1", "0", 30 * "9", "x", "%ff", "", "[]", "%00", "siblings")
METHODS = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH", "get", "X", "")
HEADERS = (
    "Range: bytes=0-99", "Range: bytes=-5", "Range: bytes=5-2", "Range: bytes=0-0,5-9", "Range: x",
    f"Range: bytes={'9' * 30}-", "If-Range: \"x\"", "If-None-Match: *", "Accept: application/json",
    "Accept-Encoding: gzip, br;q=0", "Accept-Encoding: identity", "Expect: 100-continue",
    "Connection: close", "Connection: keep-alive, x", "X-Forwarded-Host: other.example",
    "X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b", "Host: other:99999", "Host: [::1",
    "Authorization: Bearer \xe9", "Authorization: Basic ====", "Content-Type: application/json",
    "Content-Type: multipart/form-data", "Content-Encoding: gzip", "X: " + "y" * 5000,
    "User-Agent:",
    "Upgrade: h2c", "TE: trailers", "Git-Protocol: version=2", "Cookie: a=b; c",
    "X-Request-Id: a\tb",
    "If-Modified-Since: yesterday", "Accept: application/vnd.pypi.simple.v1+json",
    "Max-Forwards: 0",
)  # fmt: skip
BODIES = (
    b"", b'{"paths": ["config.json"], "expand": true}', b"paths=config.json&expand=1",
    b"\x1f\x8b\x08",
    b'{"paths": "x"}', b'{"paths": [5]}', b"[]", b"null", b"0000",
    b"0032want " + b"a" * 40 + b"\n00000009done\n",
    b'{"paths": ["' + b"a/" * 3000 + b'"]}', b"[" * 5000, b"\xff" * 100, b"x" * 100_000,
)  # fmt: skip


def _request(chosen: random.Random) -> bytes:
    """One request, which may be in order."""
    path = chosen.choice(PATHS)
    if chosen.random() < 0.4:
        parts = tuple(one.encode(errors="surrogatepass") for one in ODD_STRINGS if len(one) < 4000)
        marks = (b"/", b"%2F", b"%00", b"..", b"?", b"&", b"=", b"#", b"%", b"//", b"%ff", b";")
        path = mutate_bytes(chosen, path.encode(), parts + marks).decode("latin-1")
    elif chosen.random() < 0.3:
        pairs = [f"{chosen.choice(FIELDS)}={chosen.choice(VALUES)}" for _ in range(3)]
        path += chosen.choice(("?", "&")) + "&".join(pairs)
    version = chosen.choice(("1.1", "1.1", "1.1", "1.1", "1.0", "9.9", ""))
    lines = [f"{chosen.choice(METHODS)} {path} HTTP/{version}"]
    lines += ["Host: localhost"] if chosen.random() < 0.95 else []
    lines += chosen.sample(HEADERS, chosen.choice((0, 0, 1, 2, 4)))
    body = chosen.choice(BODIES) if chosen.random() < 0.4 else b""
    framing, sent = _framed(chosen, body)
    head = "\r\n".join([*lines, *framing]).encode("latin-1", "replace") + b"\r\n\r\n"
    whole = head + sent
    return mutate_bytes(chosen, whole, (b"\r\n", b"\n", b"\0")) if chosen.random() < 0.15 else whole


def _framed(chosen: random.Random, body: bytes) -> tuple[list[str], bytes]:
    """A body, and the headers that say how long it is; they may lie."""
    if not body:
        return [], b""
    if chosen.random() < 0.5:
        told = len(body) + chosen.choice((0, 0, 0, 1, -1, 10_000))
        return [f"Content-Length: {max(told, 0)}"], body
    pieces, at = [], 0
    while at < len(body):
        size = chosen.choice((1, 7, 1000, 60_000))
        piece = body[at : at + size]
        pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += size
        if len(pieces) > 50:
            break
    end = chosen.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"g\r\n", b"ffffffffff\r\n"))
    return ["Transfer-Encoding: chunked"], b"".join(pieces) + end


def _converse(url: str, seed: int) -> str:
    """One connection; what was wrong with it, and empty where nothing was."""
    chosen = random.Random(seed)
    sent = b"".join(_request(chosen) for _ in range(chosen.choice((1, 1, 1, 2, 5))))
    ending = chosen.choice(("close", "close", "wait", "half", "reset", "reset"))
    came = b""
    with suppress(OSError), closing(connect(url, 5)) as connection:
        with suppress(OSError):
            for piece in _pieces(chosen, sent):
                connection.sendall(piece)
            if ending == "half":
                connection.shutdown(socket.SHUT_WR)
            if ending in ("wait", "half", "close"):
                connection.settimeout(0.15 if ending != "wait" else 0.4)
                while chunk := connection.recv(65536):
                    came += chunk
        if ending == "reset":
            at_once = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    return _wrong(came)


def _pieces(chosen: random.Random, sent: bytes) -> Iterator[bytes]:
    if chosen.random() < 0.7:
        yield sent
        return
    ends = sorted(chosen.randint(0, len(sent)) for _ in range(4))
    for at, end in itertools.pairwise([0, *ends, len(sent)]):
        yield sent[at:end]
        time.sleep(0.002)


def _wrong(came: bytes) -> str:
    """A status of 500 and up but 503. Where a HEAD was among the requests, what follows it can not
    be told from bodies, and its first status line is all that is looked at."""
    with suppress(ValueError, AssertionError):
        for answer in read(came, closed=True).answers:
            if answer.status >= 500 and answer.status != 503:
                return f"{answer.status} {answer.body[:200]!r}"
    return f"{came[:300]!r}" if came.startswith(b"HTTP/1.1 50") and came[11:12] != b"3" else ""


@dataclass
class Running:
    """A server of one process, and what it wrote to standard error."""

    process: subprocess.Popen[str]
    url: str
    errors: Path
    slowest: float = 0.0
    read: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def news(self) -> str:
        """What was written to standard error since this was last asked for."""
        time.sleep(0.1)
        with self.errors.open() as file:
            file.seek(self.read)
            text = file.read()
            self.read = file.tell()
        return text

    def memory(self) -> int:
        """Bytes that it has in memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def watch(self) -> None:
        """Ask for /healthz all the time."""
        with httpx2.Client(base_url=self.url, timeout=30) as client:
            while not self._ended.wait(0.05):
                started = time.monotonic()
                assert client.get("/healthz").status_code == 200
                self.slowest = max(self.slowest, time.monotonic() - started)

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self.watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tmp_path = tmp_path_factory.mktemp("requests")
    data = tmp_path / "data"
    make_managed(data / "hub", Content(FILES, COMMIT, MODEL))
    make_plain(tmp_path / "plain")
    make_wheel(data / "wheels", "tiny-a")
    write(data / "openllm" / "a.txt", b"tiny-a==1.0\n")
    errors = tmp_path / "errors"
    words = ("--workers", "1", "--source", f"folder:{tmp_path}/plain=Org/Plain")
    with errors.open("w") as log, run_command(tmp_path, *words, errors=log) as command:
        yield Running(command.process, command.url, errors)


def _storm(url: str, seeds: list[int]) -> dict[int, str]:
    """The seeds whose connections went wrong, and how."""
    with ThreadPoolExecutor(8) as pool:
        found = zip(seeds, pool.map(lambda seed: _converse(url, seed), seeds), strict=True)
        return {seed: wrong for seed, wrong in found if wrong}


@pytest.mark.timeout(120 + CONNECTIONS)
def test_a_storm_of_wrong_requests(running: Running) -> None:
    running.news()
    first = random.SystemRandom().randrange(2**31) if FACTOR > 1 else 0
    seeds = [*FOUND, *range(first, first + CONNECTIONS)]
    assert _storm(running.url, seeds[: len(FOUND) + 100]) == {}  # it has now imported all
    memory, descriptors = running.memory(), running.descriptors()
    with running.watched():
        wrong = _storm(running.url, seeds)
    for seed, text in wrong.items():
        print(f"seed {seed}: {text}")  # noqa: T201
    assert wrong == {}
    until(lambda: running.descriptors() <= descriptors + 2)
    assert running.process.poll() is None
    assert httpx2.get(f"{running.url}/healthz").status_code == 200
    said = running.news()
    at = said.find("Traceback")
    assert at < 0, said[max(0, at - 500) : at + 5000]
    assert running.memory() - memory < MAX_GROWTH
    assert running.slowest < 1


# The shortest form of each failure that was found.
CASES = {
    "a path that is no latin-1": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a path in full": b"GET http://other/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a path that is an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a path in full that is empty": b"GET http:// HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a port that is none": b"GET http://a:b/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a fragment": b"GET /#a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a query alone": b"GET ?a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("name", CASES)
def test_a_request_that_failed_once(running: Running, name: str) -> None:
    running.news()
    with closing(connect(running.url, 5)) as connection:
        connection.sendall(CASES[name])
        came = b""
        while chunk := connection.recv(65536):
            came += chunk
    assert came.startswith(b"HTTP/1.1 ")
    assert _wrong(came) == ""
    assert "Traceback" not in running.news()


def test_requests_under_way_when_the_connection_ends(running: Running) -> None:
    """Several came at once, and what is behind them ends it before they are answered."""
    running.news()
    one = b"GET /api/models/Org/Model/tree/main?recursive=1&limit=%d HTTP/1.1\r\nHost: x\r\n\r\n"
    for number in range(1, 40, 2):
        pipelined = one % number + one % (number + 1) + b"nonsense\r\n\r\n"
        exchange(running.url, pipelined, quiet=1)
    assert httpx2.get(f"{running.url}/healthz").status_code == 200
    assert "Traceback" not in running.news()
