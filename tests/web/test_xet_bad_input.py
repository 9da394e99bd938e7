"""Forged, expired and random requests for Xet: never a 5xx, never a byte of another file."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.derived.xet_hashes import XetHashes
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web.access import Signer
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from mirror.web.xorb import BLOCK, CHUNK, HEAD
from tests.folders import COMMIT, MODEL, OLDER
from tests.servers import run_server
from tests.web.test_xet import DATASET, FORMS, block_path, cas, fetches, make, read, xet_hash

TOKEN = "hm-of-the-mirror"
NOW, LATER = int(time.time()), 4 * 10**9
LIKE_A_COMMIT = f"{OLDER}/e.bin"
# Of one letter each, and of lengths whose bytes in a chunk's head are no letters.
FILES: Mapping[Repo, Mapping[str, bytes]] = {
    MODEL: {
        "a.bin": b"A" * 5, "dir/b \u00fc.bin": b"B" * (2 * CHUNK + 0x10000),
        "c.bin": b"C" * (BLOCK + 3), LIKE_A_COMMIT: b"E" * 4,
    },
    DATASET: {"d.bin": b"D" * CHUNK},
}  # fmt: skip
HEADS = {0, 1, 2, 3, 4, 5}


@contextmanager
def server(folder: Path, signer: Signer) -> Iterator[httpx2.Client]:
    """A server that remembers for long what it answered."""
    for repo, bodies in FILES.items():
        make(folder / "hub", dict(bodies), repo)
    state = State(folder / "state")
    with closing(Digests(state)) as digests:
        source = FirstFound([HfCache(folder / "hub", digests, managed=True)])
        app = create_app(
            source,
            state,
            ttl_s=60,
            proxy=ProxySettings(signer=signer),
            xet_hashes=XetHashes(digests),
        )
        with run_server(app) as url, httpx2.Client(base_url=url) as client:
            yield client


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with server(tmp_path_factory.mktemp("opened"), Signer()) as client:
        yield client


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A server that asks for its token."""
    with server(tmp_path_factory.mktemp("closed"), Signer(TOKEN)) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def access_token(path: str = cas(), token: str = TOKEN, expires: int = LATER) -> str:
    return Signer(token).access_token(path, expires)


def signed(path: str, token: str = TOKEN, expires: int = LATER) -> str:
    return Signer(token).query(path, expires)


@dataclass(frozen=True)
class Said:
    status: int
    headers: bytes
    body: bytes

    @property
    def is_data(self) -> bool:
        return b"application/octet-stream" in self.headers and self.body != b""


def exchange(
    client: httpx2.Client, method: str, path: str | bytes, headers: Mapping[str, str] | None = None
) -> Said:
    """What the server says to exactly this; httpx would tidy it."""
    raw = path.encode("latin-1") if isinstance(path, str) else path
    lines = [f"{name}: {value}".encode("latin-1") for name, value in (headers or {}).items()]
    start = method.encode() + b" " + raw + b" HTTP/1.1"
    head = [start, b"Host: hub.example", b"Connection: close", *lines, b"", b""]
    address = (client.base_url.host, client.base_url.port or 80)
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"\r\n".join(head))
        said = bytearray()
        while part := connection.recv(1 << 20):
            said += part
    top, _, body = bytes(said).partition(b"\r\n\r\n")
    return Said(int(top.split()[1]), top.lower(), body)


# The token


def test_the_token_leads_to_the_bytes(closed: httpx2.Client) -> None:
    """All that a client needs beside it is in the answers."""
    path = "dir/b \u00fc.bin"
    head = closed.head(f"/Org/Model/resolve/main/{quote(path)}", headers=bearer(TOKEN))
    token = closed.get(head.links["xet-auth"]["url"], headers=bearer(TOKEN)).json()
    for form in FORMS:
        url = f"{token['casUrl']}/{form}/{head.headers['x-xet-hash']}"
        body = closed.get(url, headers=bearer(token["accessToken"])).json()
        assert read(closed, body, len(FILES[MODEL][path])) == FILES[MODEL][path]


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN,
     f"Bearer {access_token()}", "Bearer open", "Bearer \xff"],
)  # fmt: skip
@pytest.mark.parametrize(
    "path", ["/api/models/Org/Model/xet-read-token/main", f"/{cas()}/v2/reconstructions/{64 * 'a'}"]
)
def test_the_token_route_asks_for_the_token(closed: httpx2.Client, given: str, path: str) -> None:
    said = exchange(closed, "GET", path, {"authorization": given})
    assert (said.status, json.loads(said.body).keys()) == (401, {"error"})


def test_health_and_telemetry_ask_for_none(closed: httpx2.Client) -> None:
    assert closed.get("/healthz").status_code == 200
    assert closed.post("/v1/telemetry", content=b"{}").status_code == 200


ACCESS = {
    "none": "",
    "the mirror's token": TOKEN,
    "of an open mirror": Signer().access_token(cas(), 0),
    "expired": access_token(expires=NOW - 1),
    "forged": access_token(token="another"),
    "of another commit": access_token(cas(commit=OLDER)),
    "of another repository": access_token(cas(DATASET)),
    "of a part of the path": access_token(cas().rpartition("/")[0]),
    "of a block": signed(cas()).rpartition("=")[2],
    "with a later expiry": f"{10**10}.{access_token().partition('.')[2]}",
    "with an endless expiry": f"{10**20}.{access_token().partition('.')[2]}",
    "with no expiry": access_token().partition(".")[2],
    "with no signature": f"{10**10}.",
    "in capitals": access_token().upper(),
    "no ascii": f"{10**10}.\xe9",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("token", ACCESS.values(), ids=ACCESS)
def test_a_reconstruction_asks_for_an_access_token(
    closed: httpx2.Client, token: str, form: str
) -> None:
    url = f"{cas()}/{form}/{xet_hash('c.bin')}"
    assert closed.get(url, headers=bearer(access_token())).status_code == 200
    said = exchange(closed, "GET", url, bearer(token))
    assert (said.status, json.loads(said.body).keys()) == (401, {"error"})


BLOCK_0 = block_path(0, "c.bin")
QUERY_0 = signed(BLOCK_0)
QUERIES = {
    "none": "",
    "expired": signed(BLOCK_0, expires=NOW - 1),
    "forged": signed(BLOCK_0, "another"),
    "of an empty token": f"?expires={10**10}&signature={64 * '0'}",
    "of another block": signed(block_path(1, "c.bin")),
    "of another file": signed(block_path(0, "a.bin")),
    "of another repository": signed(block_path(0, "c.bin", DATASET)),
    "of the same path in other words": signed(f"/{BLOCK_0}"),
    "of the commit": signed(cas()),
    "with a later expiry": re.sub(r"expires=\d+", f"expires={10**10}", QUERY_0),
    "with an endless expiry": re.sub(r"expires=\d+", f"expires={10**20}", QUERY_0),
    "with no expiry": re.sub(r"expires=\d+", "", QUERY_0),
    "with no signature": QUERY_0.partition("&")[0],
    "with another signature before it": "?signature=0&" + QUERY_0[1:],
    "no ascii": QUERY_0 + "%C3%A9",
}  # fmt: skip


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_block_asks_for_a_signature(closed: httpx2.Client, query: str) -> None:
    right = closed.get(BLOCK_0 + QUERY_0)
    assert (right.status_code, len(right.content)) == (200, BLOCK + 128 * HEAD)
    for headers in ({}, bearer(TOKEN), bearer(access_token()), {"range": "bytes=0-99"}):
        answer = closed.get(BLOCK_0 + query, headers=headers)
        assert (answer.status_code, answer.json().keys()) == (403, {"error"})


@pytest.mark.parametrize(
    "path",
    [
        block_path(1, "c.bin"), block_path(0, "a.bin"), block_path("00", "c.bin"), f"/{BLOCK_0}",
        BLOCK_0.replace("c.bin", "%63.bin"), BLOCK_0.replace("Org", "org"), f"{BLOCK_0}/",
        BLOCK_0.replace("/blocks", "//blocks"),
    ],
)  # fmt: skip
def test_a_signature_holds_for_its_own_url(closed: httpx2.Client, path: str) -> None:
    said = exchange(closed, "GET", path + QUERY_0)
    assert (said.status in (401, 403), said.is_data) == (True, False)


def test_a_range_may_be_asked_with_a_signature(closed: httpx2.Client) -> None:
    answer = closed.get(BLOCK_0 + QUERY_0, headers={"range": "bytes=8-9"})
    assert (answer.status_code, answer.content) == (206, b"CC")


def test_a_signature_says_until_when_it_holds(closed: httpx2.Client) -> None:
    url = f"{cas()}/v2/reconstructions/{xet_hash('a.bin')}"
    body = closed.get(url, headers=bearer(access_token())).json()
    for _, fetched, _ in fetches(body):
        assert 3500 < int(httpx2.URL(fetched).params["expires"]) - time.time() <= 3600


def test_a_file_below_a_folder_that_is_named_like_a_commit(closed: httpx2.Client) -> None:
    url = f"{cas()}/v2/reconstructions/{xet_hash(LIKE_A_COMMIT)}"
    body = closed.get(url, headers=bearer(access_token())).json()
    assert read(closed, body, 9) == b"EEEE"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/api/models?full=true", "/api/models/Org/Model?blobs=true", "/metrics", "/readyz",
        "/api/whoami-v2", "/api/models/Org/Model/xet-read-token/main", "/none",
        "/Org/Model/resolve/main/a.bin", "/Org/Model/resolve/main/none",
        f"{cas()}/v2/reconstructions/{xet_hash('c.bin')}", BLOCK_0, BLOCK_0 + signed(BLOCK_0, "x"),
    ],
)  # fmt: skip
def test_the_token_is_in_no_answer(closed: httpx2.Client, path: str) -> None:
    for headers in ({}, bearer(TOKEN), bearer(access_token())):
        answer = closed.get(path, headers=headers)
        assert TOKEN not in f"{answer.headers}{answer.text}"


# Anything at all


NAMES = [(repo, path) for repo, bodies in FILES.items() for path in bodies]
RIGHT = [
    *(block_path(number, path, repo) for repo, path in NAMES for number in (0, 1)),
    *(f"{cas(repo)}/{form}/{xet_hash(path)}" for repo, path in NAMES for form in FORMS),
    "/api/models/Org/Model/xet-read-token/main",
    f"/api/datasets/Org/Data/xet-read-token/{COMMIT}",
]
WORDS = sorted({word for path in RIGHT for word in path.split("/")})
ODD = [
    "..",
    ".",
    "%2e%2e",
    "%2F",
    "%00",
    "%ff",
    "%",
    "\xfc",
    "*",
    "-1",
    20 * "9",
    64 * "e",
    "a" * 40,
]
segments = st.one_of(
    st.sampled_from(WORDS), st.sampled_from(ODD),
    st.text(st.characters(codec="latin-1", exclude_characters=" \r\n\0"), max_size=6),
)  # fmt: skip


@st.composite
def paths(draw: st.DrawFn) -> str:
    """A right path, with a segment or two changed, taken out or put in."""
    words = draw(st.sampled_from(RIGHT)).split("/")[1:]
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(words)))
        words[place : place + draw(st.integers(0, 1))] = draw(st.lists(segments, max_size=1))
    return "/" + "/".join(words)


edges = st.sampled_from([0, 1, 5, 8, CHUNK, CHUNK + 8, BLOCK, BLOCK + 1024, 10**15, 10**40])
numbers = st.builds(lambda edge, more: str(max(0, edge + more)), edges, st.integers(-2, 2))
ranges = st.one_of(
    st.builds("bytes={}-{}".format, numbers | st.just(""), numbers | st.just("")),
    st.text(st.characters(codec="latin-1", categories=["L", "N", "P", "Zs"]), max_size=20),
    st.just(""),
)
methods = st.sampled_from(["GET"] * 6 + ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
queries = st.sampled_from(["", "?", "?expires=1&signature=x", f"?{TOKEN}", QUERY_0])


def plain(path: str) -> str:
    """A path as it is meant: decoded, with no empty segments."""
    decoded = unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "replace")
    return re.sub("/+", "/", decoded).rstrip("/")


def check(path: str, said: Said) -> None:
    """That an answer is right, and of the file that the path names."""
    assert said.status < 500
    meant = plain(path)
    if said.is_data:
        (repo, name) = next(one for one in NAMES if meant.endswith(f"/{one[1]}"))
        assert set(said.body) <= HEADS | {FILES[repo][name][0]}
        assert meant.startswith(f"{cas(repo)}/blocks/")
    elif said.status == 200 and b'"terms"' in said.body:
        repo, name = next(one for one in NAMES if meant.endswith(xet_hash(one[1])))
        _check_reconstruction(json.loads(said.body), repo, name)


def _check_reconstruction(body: dict[str, Any], repo: Repo, name: str) -> None:
    urls = [url.partition("?")[0] for _, url, _ in fetches(body)]
    number = int(urls[0].partition("/blocks/")[2].split("/")[1])
    ours = [f"http://hub.example{block_path(number + n, name, repo)}" for n in range(len(urls))]
    assert urls == ours
    assert sum(term["unpacked_length"] for term in body["terms"]) <= len(FILES[repo][name])


@settings(deadline=None, max_examples=200)
@given(methods, paths(), queries, ranges)
@example("GET", BLOCK_0, "", f"bytes={BLOCK}-")
@example("GET", f"{cas()}/v2/reconstructions/{xet_hash('c.bin')}", "", f"bytes={BLOCK}-")
def test_an_open_mirror_takes_anything(
    opened: httpx2.Client, method: str, path: str, query: str, asked: str
) -> None:
    said = exchange(opened, method, path + query, {"range": asked})
    check(path, said)


KEYS = ["", TOKEN, access_token(cas(commit=OLDER)), access_token(token="x"), "open", 9 * "."]


@settings(deadline=None, max_examples=200)
@given(methods, paths(), queries, ranges, st.sampled_from(KEYS))
@example("GET", BLOCK_0, QUERY_0, "", "")
def test_a_closed_mirror_gives_nothing_to_those_without_a_key(
    closed: httpx2.Client, method: str, path: str, query: str, asked: str, key: str
) -> None:
    said = exchange(closed, method, path + query, {"range": asked, **bearer(key)})
    check(path, said)
    if (path, query) != (BLOCK_0, QUERY_0) and key != TOKEN:
        assert (said.is_data, said.status == 206) == (False, False)
        assert not re.search(b'"terms"|"accessToken"', said.body)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, len(QUERY_0) - 1), st.sampled_from("019abfAFx%&=+;./"))
def test_no_other_signature_holds(closed: httpx2.Client, place: int, char: str) -> None:
    """One character of the query is another."""
    forged = QUERY_0[:place] + char + QUERY_0[place + 1 :]
    said = exchange(closed, "GET", BLOCK_0 + forged)
    assert (said.status == 403) != (forged == QUERY_0)
