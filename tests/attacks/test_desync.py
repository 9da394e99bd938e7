"""Requests that two servers may read in two ways. Nobody gets an answer that is another's."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from tests.attacks.raw import Said, exchange
from tests.folders import Content, make_classic
from tests.nginx import NGINX, run_nginx
from tests.servers import run_server

BASE = "/Org/Model/resolve/main"
SMUGGLED = b"smuggled\n"
FILES = {"smuggled.txt": SMUGGLED} | {
    f"{number}.txt": f"answer {number}\n".encode() for number in range(40)
}
HIDDEN = f"GET {BASE}/smuggled.txt HTTP/1.1\r\nHost: hidden\r\n\r\n".encode()
_IN_CHUNKS = b"0\r\n\r\n" + HIDDEN
_ONE_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)

# Framing that RFC 9112 does not allow, or that it says to refuse: nothing behind it is read.
REFUSED = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(HIDDEN),
    "two lengths, the longer first": b"Content-Length: %d\r\nContent-Length: 0\r\n" % len(HIDDEN),
    "length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "a list of lengths": b"Content-Length: 0, %d\r\n" % len(HIDDEN),
    "a negative length": b"Content-Length: -1\r\n",
    "a length with a sign": b"Content-Length: +0\r\n",
    "a hexadecimal length": b"Content-Length: 0x10\r\n",
    "a length with a letter": b"Content-Length: 0a\r\n",
    "an endless length": b"Content-Length: 99999999999999999999999\r\n",
    "a space before the colon": b"Content-Length : %d\r\n" % len(HIDDEN),
    "a tab before the colon": b"Transfer-Encoding\t: chunked\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked, identity\r\n",
    "unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "a NUL in a value": b"Transfer-Encoding: chunked\0\r\n",
    "a bare CR": b"X: a\rContent-Length: %d\r\n" % len(HIDDEN),
    "a field without a colon": b"Content-Length %d\r\n" % len(HIDDEN),
    "an empty field name": b": x\r\n",
}
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK_SIZES = {
    "a sign": b"+0\r\n\r\n", "a prefix": b"0x0\r\n\r\n", "negative": b"-1\r\n\r\n",
    "too long": b"fffffffffffffffff\r\n", "a space before": b" 0\r\n\r\n", "a letter": b"g\r\n\r\n",
    "no line end after the data": b"1\r\nab0\r\n\r\n", "empty": b"\r\n\r\n",
}  # fmt: skip
# What some servers take and others do not; whoever takes it must go on at the right byte.
EITHER = {
    "the same length twice": (b"Content-Length: 0\r\nContent-Length: 0\r\n", b""),
    "obs-fold": (b"X: a\r\n b\r\n", b""),
    "obs-fold of a length": (b"Content-Length:\r\n 0\r\n", b""),
    "obs-fold of a coding": (b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    "a bare LF in the head": (b"X: a\nY: b\r\n", b""),
    "a coding in capitals": (b"Transfer-Encoding: CHUNKED\r\n", b"0\r\n\r\n"),
    "a tab before the coding": (b"Transfer-Encoding:\tchunked\r\n", b"0\r\n\r\n"),
    "chunks twice": (b"Transfer-Encoding: chunked\r\n" * 2, b"0\r\n\r\n"),
    "an extension": (CHUNKED, b"0;a=b\r\n\r\n"),
    "a quoted extension": (CHUNKED, b'0;a="\r\n\r\n'),
    "zeros": (CHUNKED, b"00000\r\n\r\n"),
    "a trailer": (CHUNKED, b"0\r\nContent-Length: 5\r\n\r\n"),
    "a bare LF after a size": (CHUNKED, b"0\n\r\n"),
    "hidden in a chunk": (CHUNKED, _ONE_CHUNK),
    "hidden in a body": (b"Content-Length: %d\r\n" % len(HIDDEN), HIDDEN),
    "pipelined": (b"", b""),
    "a connection that names the length": (b"Connection: content-length\r\nContent-Length: 0\r\n",
                                            b""),
    "an upgrade": (b"Connection: upgrade\r\nUpgrade: h2c\r\n", b""),
}  # fmt: skip


def _request(number: int, headers: bytes = b"", method: str = "GET", version: str = "1.1") -> bytes:
    line = f"{method} {BASE}/{number}.txt HTTP/{version}\r\nHost: front\r\n".encode()
    return line + headers + b"\r\n"


@dataclass
class Back:
    """Counts what reaches the application, by path."""

    app: ASGIApp
    seen: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            with self._lock:
                self.seen[scope["path"]] += 1
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Back, str]]:
    folder = tmp_path_factory.mktemp("back")
    make_classic(folder / "hub", Content(FILES))
    state = State(folder / "state")
    with closing(Digests(state)) as digests:
        source = HfCache(folder / "hub", digests, managed=False)
        back = Back(create_app(FirstFound([source]), state, proxy=ProxySettings(accel="nginx")))
        with run_server(back) as url:
            yield back, url


@pytest.fixture(scope="module")
def front(back: tuple[Back, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """nginx, which keeps its connections to the mirror, so that what one leaves the next finds."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("front")
    log = f"log_format seen '$uri $upstream_status'; access_log {folder}/access.log seen;"
    with run_nginx(folder, back[1], log) as url:
        yield url


def _payloads() -> Iterator[tuple[str, bytes, bool]]:
    """A name, the bytes of one request, and whether it must be refused."""
    for method, version in itertools.product(("GET", "POST", "HEAD"), ("1.1", "1.0")):
        start = f"{method} {version}"
        for name, headers in REFUSED.items():
            yield f"{start} {name}", _request(0, headers, method, version) + HIDDEN, True
            yield (
                f"{start} {name}, chunked",
                _request(0, headers, method, version) + _IN_CHUNKS,
                True,
            )
        for name, (headers, body) in EITHER.items():
            yield f"{start} {name}", _request(0, headers, method, version) + body, False
    for method in ("GET", "POST"):
        for name, body in CHUNK_SIZES.items():
            yield f"{method} {name}", _request(0, CHUNKED, method) + body + HIDDEN, True


PAYLOADS = list(_payloads())
_NUMBERS = itertools.cycle(range(1, 40))


def _answer_of(number: int) -> bytes:
    return FILES[f"{number}.txt"]


def _check(name: str, said: Said, number: int, *, must_refuse: bool) -> str:
    """What is wrong with what came; empty where nothing is. Of the answers the first belongs to
    the odd request, the last to the one behind it."""
    own = (FILES["0.txt"], b"")
    for at, answer in enumerate(said.answers):
        is_own = answer.body in own or answer.status >= 400
        is_next = at > 0 and answer.body == _answer_of(number) and at == len(said.answers) - 1
        if not is_own and not is_next:
            return f"{name}: answer {at} is {answer.status} {answer.body[:80]!r}"
    if len(said.answers) > 2:
        return f"{name}: {len(said.answers)} answers to two requests"
    if must_refuse and len(said.answers) > 1:
        return f"{name}: it was not refused"
    return ""


def _ask(url: str, name: str, payload: bytes, number: int, *, must_refuse: bool) -> str:
    heads = int(name.startswith("HEAD"))
    try:
        said = exchange(url, payload, _request(number), heads=heads)
    except ValueError as exc:
        return f"{name}: {exc}"
    return _check(name, said, number, must_refuse=must_refuse)


def _next(url: str) -> str:
    """What is wrong with the answer to somebody who comes afterwards."""
    number = next(_NUMBERS)
    said = exchange(url, _request(number, b"Connection: close\r\n"), quiet=5)
    bodies = [answer.body for answer in said.answers]
    return "" if bodies == [_answer_of(number)] else f"asked for {number}, got {bodies}"


def _attack(url: str) -> list[str]:
    def ask(one: tuple[str, bytes, bool]) -> str:
        return _ask(url, one[0], one[1], next(_NUMBERS), must_refuse=one[2])

    with ThreadPoolExecutor(16) as pool:
        found = [*pool.map(ask, PAYLOADS), *pool.map(lambda _: _next(url), range(60))]
    return [one for one in found if one]


def test_the_mirror_itself_gives_no_answer_to_another(back: tuple[Back, str]) -> None:
    assert _attack(back[1]) == []
    assert _next(back[1]) == ""


def test_nothing_is_smuggled_past_nginx(back: tuple[Back, str], front: str) -> None:
    """Every request that reaches the mirror is one that nginx has sent."""
    before = back[0].seen.copy()
    assert _attack(front) == []
    assert [one for one in (_next(front) for _ in range(20)) if one] == []
    time.sleep(0.2)
    assert (back[0].seen - before)[f"{BASE}/smuggled.txt"] == 0


def test_nobody_gets_the_answer_to_a_request_that_was_cut(
    back: tuple[Back, str], front: str
) -> None:
    """A client that leaves in its head or in its body, while others ask."""
    for payload in (
        _request(0)[:-2], _request(0, b"Content-Length: 100\r\n", "POST") + b"x" * 50,
        _request(0, CHUNKED, "POST") + b"ff\r\nabc", _request(0) + _request(0)[:20],
    ):  # fmt: skip
        for _ in range(5):
            exchange(front, payload, quiet=0.02)
            assert _next(front) == ""


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
@pytest.mark.parametrize("pieces", [1, 2], ids=["in one segment", "in two"])
def test_a_body_behind_an_offer_to_upgrade_is_no_request(
    back: tuple[Back, str], upgrade: str, pieces: int
) -> None:
    offer = f"Connection: upgrade\r\nUpgrade: {upgrade}\r\n".encode()
    head = _request(0, offer + b"Content-Length: %d\r\n" % len(HIDDEN), "POST")
    sent = [head, HIDDEN] if pieces == 2 else [head + HIDDEN]
    before = back[0].seen[f"{BASE}/smuggled.txt"]
    exchange(back[1], *sent, _request(1), pause=0.05)
    assert back[0].seen[f"{BASE}/smuggled.txt"] == before


def test_a_request_behind_an_offer_to_upgrade_is_answered(back: tuple[Back, str]) -> None:
    """Clients of HTTP/2 make the offer with their first request."""
    said = exchange(back[1], _request(1, b"Connection: upgrade\r\nUpgrade: h2c\r\n") + _request(2))
    assert [answer.body for answer in said.answers] == [_answer_of(1), _answer_of(2)]
