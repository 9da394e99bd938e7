"""What was just answered is answered again from memory, and no longer than that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from starlette.responses import Response

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.derived.xet_hashes import XetHashes
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from mirror.web.response_cache import ResponseCache
from tests.folders import COMMIT, Content, make_classic, make_managed, write
from tests.servers import run_server

TTL_S = 0.5
BODY = bytes(range(256)) * 4096
FILES = {"model.bin": BODY, "config.json": b"{}"}
LARGE, SMALL = (f"/Org/Model/resolve/main/{name}" for name in FILES)


@pytest.fixture
def blobs(hub: Path) -> Path:
    return make_classic(hub, Content(FILES)) / "blobs"


@pytest.fixture
def client(blobs: Path, hub: Path, state: State, digests: object) -> Iterator[httpx2.Client]:
    source = HfCache(hub, digests, managed=False, ttl_s=TTL_S)  # type: ignore[arg-type]
    app = create_app(FirstFound([source]), state, ttl_s=TTL_S)
    with run_server(app) as url, httpx2.Client(base_url=url) as client:
        yield client


def test_a_small_answer_is_remembered_for_a_moment(client: httpx2.Client, blobs: Path) -> None:
    assert client.get(SMALL).content == b"{}"
    write(blobs / Content(FILES).entries["config.json"].etag, b"[]")
    assert client.get(SMALL).content == b"{}"
    time.sleep(3 * TTL_S)
    assert client.get(SMALL).status_code == 503  # these are not the bytes of this digest


def test_an_absence_is_remembered_for_a_moment(client: httpx2.Client, blobs: Path) -> None:
    path = SMALL.replace("config", "other")
    assert client.get(path).status_code == 404
    write(blobs.parent / "snapshots" / COMMIT / "other.json", b"{}")
    time.sleep(3 * TTL_S)
    assert client.get(path).content == b"{}"


def test_a_large_file_is_read_from_the_disk_each_time(client: httpx2.Client, blobs: Path) -> None:
    assert client.get(LARGE).content == BODY
    write(blobs / Content(FILES).entries["model.bin"].etag, BODY[::-1])
    assert client.get(LARGE).content == BODY[::-1]


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({"range": "bytes=5-600000"}, 206, BODY[5:600001]),
        ({"range": "bytes=0-9"}, 206, BODY[:10]),
        ({"range": f"bytes={len(BODY)}-"}, 416, b""),
        ({"range": "bytes=5-9", "if-range": '"other"'}, 200, BODY),
        ({"if-none-match": "*"}, 304, b""),
    ],
)
def test_another_range_of_a_file_that_was_just_sent(
    client: httpx2.Client, headers: dict[str, str], status: int, body: bytes
) -> None:
    client.get(LARGE)
    answer = client.get(LARGE, headers=headers)
    assert (answer.status_code, answer.content) == (status, body)


def test_a_head_of_a_file_that_was_just_sent(client: httpx2.Client) -> None:
    client.get(LARGE)
    answer = client.head(LARGE)
    assert (answer.headers["content-length"], answer.content) == (str(len(BODY)), b"")


def test_a_file_that_was_just_sent_and_then_vanished(client: httpx2.Client, blobs: Path) -> None:
    assert client.get(LARGE).status_code == 200
    (blobs / Content(FILES).entries["model.bin"].etag).unlink()
    assert client.get(LARGE).status_code == 503


def test_many_different_questions_are_forgotten_in_turn(client: httpx2.Client) -> None:
    for number in range(300):
        assert client.get(LARGE, params={"n": number}).status_code == 200
        assert client.get(SMALL, params={"n": number, "pad": 2000 * "x"}).status_code == 200


def test_those_who_ask_at_once_get_one_answer_each(client: httpx2.Client) -> None:
    with ThreadPoolExecutor(16) as threads:
        sizes = list(threads.map(lambda _: len(client.get(LARGE).content), range(64)))
    assert sizes == [len(BODY)] * 64


def test_those_who_ask_for_what_is_broken_at_once(client: httpx2.Client, blobs: Path) -> None:
    client.get(SMALL)
    (blobs / Content(FILES).entries["model.bin"].etag).unlink()
    with ThreadPoolExecutor(16) as threads:
        statuses = set(threads.map(lambda _: client.get(LARGE).status_code, range(32)))
    assert statuses == {503}


def test_a_link_names_the_host_that_its_client_asked(client: httpx2.Client, hub: Path) -> None:
    """As a proxy would be told of another name a moment before."""
    make_managed(
        hub, Content(FILES, repo=Repo.parse("Org/Xet")),
        files={
            path: replace(one, xet_hash=64 * "e") for path, one in Content(FILES).entries.items()
        },
    )  # fmt: skip
    state = State(hub.parent / "other")
    with closing(Digests(state)) as digests:
        source = FirstFound([HfCache(hub, digests, managed=True)])
        app = create_app(source, state, ttl_s=60, xet_hashes=XetHashes(digests))
        path = "/Org/Xet/resolve/main/model.bin"
        with run_server(app) as url, httpx2.Client(base_url=url) as one:
            for host in ("evil.example", "mirror.lan", "evil.example"):
                for asked in ({}, {"range": "bytes=0-0"}):
                    answer = one.get(path, headers={"host": host, **asked})
                    assert answer.headers["link"].startswith(f"<http://{host}/api/models/Org/Xet")


def test_a_small_part_of_a_large_file_is_read_in_no_hurry(client: httpx2.Client) -> None:
    """What is given again is given on the event loop, which must not wait for a disk."""
    assert client.get(LARGE).content == BODY
    for start in (0, 5):
        part = client.get(LARGE, headers={"range": f"bytes={start}-{start + 999}"})
        assert (part.status_code, part.content) == (206, BODY[start : start + 1000])


def test_a_long_listing_of_files_is_given_again() -> None:
    """It takes long to make; other long answers are not kept."""
    recent = ResponseCache(60)
    body = Response(b"x" * 1_000_000)
    for route, is_kept in (("tree", True), ("resolve", False)):
        scope = {"method": "GET", "scheme": "http", "query_string": b"", "headers": [],
                 "raw_path": route.encode(), "state": {"route": route}}  # fmt: skip
        recent._keep(scope, body)
        assert (recent.find(scope) is not None) is is_kept


def test_long_answers_are_kept_within_a_bound() -> None:
    recent = ResponseCache(60)
    for number in range(200):
        scope = {"method": "GET", "scheme": "http", "query_string": b"%d" % number, "headers": [],
                 "raw_path": b"/", "state": {"route": "tree"}}  # fmt: skip
        recent._keep(scope, Response(b"x" * 1_000_000))
    assert recent._bytes <= 64 * 1024 * 1024
    assert len(recent._kept) < 70
