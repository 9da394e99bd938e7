"""Xet's read protocol, followed by a small reader of its own that checks every length."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.core.tree import lfs_file
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.derived.xet_hashes import XetHashes
from mirror.server import uvicorn_protocol as protocol
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.store.publish import publish
from mirror.web import declined
from mirror.web.app import create_app
from mirror.web.routes import ROUTER, ROUTES
from mirror.web.xorb import BLOCK, CHUNK, HEAD
from tests.conftest import Serve, serving
from tests.folders import COMMIT, MODEL, Content, entry, make_record, repo_dir, write
from tests.servers import run_server, slow_sockets
from tests.waiting import until
from tests.web.test_xorb import build

STORED = HEAD + CHUNK
ODD = "odd \u00fc#%.bin"
SIZES = {
    "empty.bin": 0, "one.bin": 1, "chunk-1.bin": CHUNK - 1, "chunk.bin": CHUNK,
    "chunk+1.bin": CHUNK + 1, "block-1.bin": BLOCK - 1, "block.bin": BLOCK,
    "block+1.bin": BLOCK + 1, ODD: 2 * BLOCK + 5 * CHUNK + 1,
}  # fmt: skip
FORMS = ("v2/reconstructions", "v1/reconstructions", "reconstruction")
DATASET = Repo.parse("datasets/Org/Data")


def body_of(name: str, size: int | None = None) -> bytes:
    """A file's bytes, with a period that no chunk is a multiple of: one from another place, or
    from another file, is seen."""
    size = SIZES[name] if size is None else size
    return (Random(name).randbytes(1_000_003) * (size // 1_000_003 + 1))[:size]


def xet_hash(path: str) -> str:
    """What upstream told, in any repository. Nothing compares it with the bytes."""
    return hashlib.sha256(path.encode()).hexdigest()


def etag(path: str, repo: Repo = MODEL) -> str:
    return hashlib.sha256(f"{repo} {path}".encode()).hexdigest()


def make(hub: Path, bodies: dict[str, bytes], repo: Repo = MODEL, **record: Any) -> Path:
    """A managed repository of LFS files, and of one that git keeps whole; its record tells a hash
    of all."""
    files = {"config.json": replace(entry("config.json", b"{}"), xet_hash=xet_hash("config.json"))}
    for path, body in bodies.items():
        files[path] = lfs_file(path, len(body), etag(path, repo), xet_hash(path))
    for path, file in files.items():
        write(repo_dir(hub, repo) / "blobs" / file.etag, bodies.get(path, b"{}"))
    publish(hub, make_record(Content(repo=repo), files=files, **record))
    return repo_dir(hub, repo)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("xet")
    make(folder / "hub", {name: body_of(name) for name in SIZES})
    make(folder / "hub", {ODD: body_of(ODD)}, DATASET)
    state = State(folder / "state")
    with closing(Digests(state)) as digests:
        source = HfCache(folder / "hub", digests, managed=True)
        with serving(state, source, xet_hashes=XetHashes(digests)) as client:
            yield client


def cas(repo: Repo = MODEL, commit: str = COMMIT) -> str:
    return f"/-/cas/{repo.repo_type.plural}/{repo.repo_id}/{commit}"


def block_path(number: object, path: str = ODD, repo: Repo = MODEL) -> str:
    return f"{cas(repo)}/blocks/{etag(path, repo)}/{number}/{quote(path)}"


def ask(client: httpx2.Client, name: str, asked: str = "", form: str = FORMS[0]) -> httpx2.Response:
    """The reconstruction of a file, or of a range of it."""
    headers = {"range": asked} if asked else {}
    return client.get(f"{cas()}/{form}/{xet_hash(name)}", headers=headers)


def fetches(body: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, dict[str, int]]]:
    """Each term of a v2 or v1 reconstruction, the URL to read it from, and which bytes of that."""
    for term in body["terms"]:
        if "xorbs" in body:
            (fetch,) = body["xorbs"][term["hash"]]
            (part,) = fetch["ranges"]
            chunks, span = part["chunks"], part["bytes"]
        else:
            (fetch,) = body["fetch_info"][term["hash"]]
            chunks, span = fetch["range"], fetch["url_range"]
        assert chunks == term["range"]
        yield term, fetch["url"], span


def read(client: httpx2.Client, body: dict[str, Any], count: int) -> bytes:
    """The bytes that a reconstruction describes, as hf_xet puts them together."""
    whole = b""
    for term, url, span in fetches(body):
        asked = f"bytes={span['start']}-{span['end']}"
        answer = client.get(url, headers={"range": asked})
        assert answer.status_code == 206
        assert answer.headers["content-range"].startswith(asked.replace("=", " "))
        assert len(answer.content) == span["end"] - span["start"] + 1
        chunks = unpack(answer.content)
        assert len(chunks) == term["range"]["end"] - term["range"]["start"]
        assert sum(map(len, chunks)) == term["unpacked_length"]
        whole += b"".join(chunks)
    start = body["offset_into_first_range"]
    return whole[start : start + count]


def unpack(stored: bytes) -> list[bytes]:
    chunks = []
    place = 0
    while place < len(stored):
        head = stored[place : place + HEAD]
        length = int.from_bytes(head[1:4], "little")
        assert (head[0], head[4]) == (0, 0)
        assert int.from_bytes(head[5:8], "little") == length
        chunks.append(stored[place + HEAD : place + HEAD + length])
        assert len(chunks[-1]) == length
        place += HEAD + length
    return chunks


# From a file to its bytes


@pytest.mark.parametrize("name", [name for name, size in SIZES.items() if size])
def test_a_whole_file(client: httpx2.Client, name: str) -> None:
    assert read(client, ask(client, name).json(), SIZES[name]) == body_of(name)


def test_the_way_of_a_client(client: httpx2.Client) -> None:
    """By the links of each answer alone, as huggingface_hub and hf_xet go."""
    head = client.head("/Org/Model/resolve/main/chunk+1.bin")
    token = client.get(head.links["xet-auth"]["url"])
    asked = f"{token.headers['x-xet-cas-url']}/v2/reconstructions/{head.headers['x-xet-hash']}"
    bearer = f"Bearer {token.headers['x-xet-access-token']}"
    body = client.get(asked, headers={"authorization": bearer}).json()
    assert read(client, body, SIZES["chunk+1.bin"]) == body_of("chunk+1.bin")


def test_the_same_content_in_two_repositories(client: httpx2.Client) -> None:
    model, data = [
        client.get(f"{cas(repo)}/v2/reconstructions/{xet_hash(ODD)}", headers={"range": "bytes=-9"})
        for repo in (MODEL, DATASET)
    ]
    assert model.json()["terms"] == data.json()["terms"]
    assert [url for _, url, _ in fetches(data.json())] == [
        _base(client) + block_path(2, ODD, DATASET)
    ]
    assert read(client, data.json(), 9) == body_of(ODD)[-9:]


def _base(client: httpx2.Client) -> str:
    return str(client.base_url).rstrip("/")


def test_plain_http_works_at_the_same_time(client: httpx2.Client) -> None:
    answer = client.get("/Org/Model/resolve/main/block+1.bin", headers={"range": "bytes=5-"})
    assert (answer.status_code, answer.content) == (206, body_of("block+1.bin")[5:])


# What clients are told


@pytest.mark.parametrize("path", ["tree/main", "paths-info/main", "revision/main?blobs=true"])
def test_listings_tell_the_hash_of_files_that_lfs_keeps(client: httpx2.Client, path: str) -> None:
    method, data = ("POST", {"paths": ["config.json", *SIZES]}) if "info" in path else ("GET", None)
    rows = client.request(method, f"/api/models/Org/Model/{path}", data=data).json()
    if "revision" in path:
        rows = [{"path": row["rfilename"], **row} for row in rows["siblings"]]
    told = {row["path"]: row.get("xetHash") for row in rows}
    offered = {name: xet_hash(name) if size else None for name, size in SIZES.items()}
    assert told == offered | {"config.json": None}


@pytest.mark.parametrize("revision", ["main", "HEAD", COMMIT, COMMIT[:8]])
def test_the_token_names_the_commit(client: httpx2.Client, revision: str) -> None:
    answer = client.get(f"/api/models/Org/Model/xet-read-token/{revision}")
    body = answer.json()
    assert body["casUrl"] == f"{_base(client)}{cas()}" == answer.headers["x-xet-cas-url"]
    assert body["accessToken"] == answer.headers["x-xet-access-token"] != ""
    assert str(body["exp"]) == answer.headers["x-xet-token-expiration"]
    assert body["exp"] > time.time() + 600


@pytest.mark.parametrize(
    "path",
    ["models/Org/None/xet-read-token/main", "models/Org/Model/xet-read-token/none",
     "spaces/Org/Model/xet-read-token/main", "models/Org/Model/xet-write-token/main"],
)  # fmt: skip
def test_no_token_for_what_is_not_here(client: httpx2.Client, path: str) -> None:
    answer = client.get(f"/api/{path}")
    assert (answer.status_code, "xet" in str(answer.headers).lower()) == (404, False)


def test_every_address_is_that_by_which_the_client_came(client: httpx2.Client) -> None:
    headers = {"x-forwarded-host": "hub.example:8443", "x-forwarded-proto": "https"}
    start = "https://hub.example:8443/"
    assert (
        f"<{start}api"
        in client.head("/Org/Model/resolve/main/one.bin", headers=headers).headers["link"]
    )
    token = client.get("/api/models/Org/Model/xet-read-token/main", headers=headers).json()
    body = client.get(f"{cas()}/v2/reconstructions/{xet_hash(ODD)}", headers=headers).json()
    assert all(
        url.startswith(start) for url in [token["casUrl"], *(u for _, u, _ in fetches(body))]
    )


def test_a_repository_that_is_named_like_a_commit(
    hub: Path, managed: HfCache, serve: Serve
) -> None:
    make(hub, {"a.bin": b"text"}, repo := Repo.parse(f"Org/{COMMIT}"))
    client = serve(managed)
    body = client.get(f"{cas(repo)}/v2/reconstructions/{xet_hash('a.bin')}").json()
    assert read(client, body, 9) == b"text"


def test_telemetry_is_taken(client: httpx2.Client) -> None:
    answer = client.post("/v1/telemetry", content=b"x" * 100_000)
    assert (answer.status_code, answer.json()) == (200, {})


# Reconstructions


@pytest.mark.parametrize("form", FORMS)
def test_every_version_gives_the_same_bytes(client: httpx2.Client, form: str) -> None:
    name = "block+1.bin"
    body = ask(client, name, "bytes=7-", form).json()
    assert ("xorbs" in body, "fetch_info" in body) == (form == FORMS[0], form != FORMS[0])
    assert body["terms"] == ask(client, name, "bytes=7-").json()["terms"]
    assert read(client, body, SIZES[name]) == body_of(name)[7:]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (0, 0), (1, 1), (CHUNK - 1, CHUNK), (CHUNK, CHUNK), (CHUNK + 3, 4 * CHUNK - 1),
        (BLOCK - 1, BLOCK), (BLOCK - 5, 2 * BLOCK + 5), (BLOCK, 2 * BLOCK - 1),
        (2 * BLOCK + 5 * CHUNK, 2 * BLOCK + 5 * CHUNK),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_a_range(client: httpx2.Client, form: str, first: int, last: int) -> None:
    body = ask(client, ODD, f"bytes={first}-{last}", form).json()
    assert read(client, body, last - first + 1) == body_of(ODD)[first : last + 1]
    assert body["offset_into_first_range"] == first % CHUNK
    length = sum(term["unpacked_length"] for term in body["terms"])
    assert first - first % CHUNK + length == min((last // CHUNK + 1) * CHUNK, SIZES[ODD])


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        (f"bytes=9-{SIZES[ODD]}", 9), ("bytes=9-" + 5000 * "9", 9), ("bytes=9-", 9),
        ("bytes=-3", SIZES[ODD] - 3), (f"bytes=-{SIZES[ODD] + 1}", 0), ("bytes=-" + 5000 * "9", 0),
        ("bytes=9-8", 0), ("bytes=0-1,5-6", 0), ("chunks=1-2", 0), ("bytes=", 0), ("0", 0),
    ],
    ids=["one-too-many", "enormous", "open", "suffix", "long-suffix", "enormous-suffix",
         "reversed", "two-ranges", "another-unit", "nothing", "no-unit"],
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_a_range_to_the_end(client: httpx2.Client, form: str, asked: str, first: int) -> None:
    body = ask(client, ODD, asked, form).json()
    start = first // CHUNK * CHUNK
    assert body["offset_into_first_range"] == first - start
    assert sum(term["unpacked_length"] for term in body["terms"]) == SIZES[ODD] - start


@pytest.mark.parametrize(
    "asked", [f"bytes={SIZES[ODD]}-", f"bytes={SIZES[ODD]}-{SIZES[ODD]}", "bytes=-0",
              "bytes=" + 5000 * "9" + "-"],
    ids=["open", "closed", "empty-suffix", "enormous"],
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_a_range_past_the_end(client: httpx2.Client, form: str, asked: str) -> None:
    answer = ask(client, ODD, asked, form)
    assert (answer.status_code, answer.json()) == (416, {})
    assert answer.headers["content-range"] == f"bytes */{SIZES[ODD]}"


@pytest.mark.parametrize("asked", ["", "bytes=0-0", "bytes=5-"])
def test_an_empty_file_has_no_terms(client: httpx2.Client, asked: str) -> None:
    """hf_xet 1.1 asks again and again for those of an answer without any."""
    assert ask(client, "empty.bin", asked).status_code == 416


@pytest.mark.parametrize("form", FORMS)
def test_a_hash_that_no_file_has(client: httpx2.Client, form: str) -> None:
    answer = client.get(f"{cas()}/{form}/{64 * 'e'}")
    assert (answer.status_code, 64 * "e" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize("text", ["x", 63 * "a", 65 * "a", 64 * "A", 64 * "g", "%00", "..%2F"])
def test_a_hash_that_is_none(client: httpx2.Client, text: str) -> None:
    assert client.get(f"{cas()}/v2/reconstructions/{text}").status_code == 400


@pytest.mark.parametrize("commit", [64 * "0", "0" * 40, "main", COMMIT[:8], COMMIT.upper()])
def test_a_commit_that_is_not_here(client: httpx2.Client, commit: str) -> None:
    url = f"{cas(commit=commit)}/v2/reconstructions/{xet_hash(ODD)}"
    assert client.get(url).status_code == 404


def test_a_file_outside_lfs_has_no_hash(client: httpx2.Client) -> None:
    """Whatever its record says."""
    assert client.get(f"{cas()}/v2/reconstructions/{xet_hash('config.json')}").status_code == 404


# Blocks

WHOLE = BLOCK // CHUNK * STORED  # bytes of a block that is full


@pytest.mark.parametrize("number", [0, 1, 2, "000"])
def test_a_whole_block(client: httpx2.Client, number: int | str) -> None:
    answer = client.get(block_path(number))
    start = int(number) * BLOCK
    assert (answer.status_code, answer.headers["accept-ranges"]) == (200, "bytes")
    assert answer.content == build(body_of(ODD)[start : start + BLOCK])


def test_the_head_of_a_block(client: httpx2.Client) -> None:
    answer = client.head(block_path(2))
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == 5 * STORED + HEAD + 1


@pytest.mark.parametrize("path", ["none.bin", "", "a//b", "../x", "config.json/x"])
def test_a_block_of_no_file(client: httpx2.Client, path: str) -> None:
    assert client.get(f"{cas()}/blocks/{etag(ODD)}/0/{path}").status_code in (400, 404)


@pytest.mark.parametrize("number", [3, 10**6, 999_999_999])
def test_a_block_past_the_end(client: httpx2.Client, number: int) -> None:
    assert client.get(block_path(number)).status_code == 404


def test_an_empty_file_has_no_blocks(client: httpx2.Client) -> None:
    assert client.get(block_path(0, "empty.bin")).status_code == 404


@pytest.mark.parametrize("number", ["x", "-1", "+1", "1.0", "0x1", "%C2%B2", "1e3", 20 * "9"])
def test_a_block_of_no_number(client: httpx2.Client, number: str) -> None:
    assert client.get(block_path(number)).status_code == 400


@pytest.mark.parametrize(
    ("asked", "status", "first"),
    [
        (f"bytes=9-{WHOLE}", 206, 9), ("bytes=9-" + 5000 * "9", 206, 9), ("bytes=9-", 206, 9),
        ("bytes=-9", 206, WHOLE - 9), ("bytes=-" + 5000 * "9", 206, 0), ("bytes=9-8", 200, 0),
        ("bytes=0-1,5-6", 200, 0), ("", 200, 0), (f"bytes={WHOLE}-", 416, WHOLE),
        ("bytes=" + 5000 * "9" + "-", 416, WHOLE), ("bytes=-0", 416, WHOLE),
    ],
    ids=["one-too-many", "enormous", "open", "suffix", "enormous-suffix", "reversed",
         "two-ranges", "none", "past-the-end", "far-past-the-end", "empty-suffix"],
)  # fmt: skip
def test_other_ranges_of_a_block(
    client: httpx2.Client, asked: str, status: int, first: int
) -> None:
    xorb = build(body_of("block.bin"))
    answer = client.get(block_path(0, "block.bin"), headers={"range": asked} if asked else {})
    assert (answer.status_code, answer.content) == (status, xorb[first:])
    assert answer.headers.get("content-range", f"/{len(xorb)}").endswith(f"/{len(xorb)}")


# On the way to a socket

BODY = body_of("model.bin", BLOCK + 3 * CHUNK + 5)
XORB = build(BODY[:BLOCK])
PATH = block_path(0, "model.bin")


@pytest.fixture
def blob(hub: Path) -> Path:
    folder = make(hub, {"model.bin": BODY})
    (blob,) = (one for one in (folder / "blobs").iterdir() if one.stat().st_size == len(BODY))
    return blob


@pytest.fixture(params=[{"loop": "uvloop"}, {"loop": "asyncio"}, {"http": "h11"}], ids=str)
def port(
    request: pytest.FixtureRequest, hub: Path, blob: Path, managed: HfCache, state: State
) -> Iterator[int]:
    """Of a server on each loop, and of one without zero copy."""
    assert blob.exists()
    with run_server(create_app(FirstFound([managed]), state, ttl_s=0), **request.param) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture
def connect(port: int) -> Iterator[Callable[[], socket.socket]]:
    with slow_sockets(port) as connect:
        yield connect


def _get(path: str = PATH, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def _begin(connection: socket.socket, *headers: str) -> bytes:
    """Ask for the block; the first bytes of its xorb."""
    connection.sendall(_get(PATH, *headers))
    return connection.recv(1000).partition(b"\r\n\r\n")[2]


def _rest(connection: socket.socket, step: int = 1 << 20) -> bytes:
    """What comes until the connection ends."""
    found = bytearray()
    with suppress(ConnectionResetError):
        while part := connection.recv(step):
            found += part
    return bytes(found)


def _is_open(path: Path) -> bool:
    """Whether this process, which the server is part of, has the file open."""
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if one.readlink() == path:
                return True
    return False


SPANS = [
    (0, 0), (3, 4), (HEAD - 1, HEAD), (5, STORED + 3), (STORED, 2 * STORED - 1), (0, len(XORB) - 1),
    (STORED - 1, STORED), (2 * STORED + 9, 9 * STORED + 2), (STORED + 4, STORED + 4),
    (len(XORB) - STORED - 1, len(XORB) - 1), (7, 40 * STORED + 7), (1, len(XORB) - 2),
]  # fmt: skip


def test_ranges_on_and_off_the_edges_of_chunks(port: int) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for first, last in SPANS:
            answer = client.get(PATH, headers={"range": f"bytes={first}-{last}"})
            assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(XORB)}"
            assert (answer.status_code, answer.content) == (206, XORB[first : last + 1])


def test_ranges_of_a_block_that_was_just_sent(hub: Path, blob: Path, state: State) -> None:
    assert blob.exists()
    with closing(Digests(state)) as digests:
        source = HfCache(hub, digests, managed=True)
        app = create_app(FirstFound([source]), state, ttl_s=60)
        with run_server(app) as url, httpx2.Client(base_url=url) as client:
            for first, last in [*SPANS, *SPANS]:
                answer = client.get(PATH, headers={"range": f"bytes={first}-{last}"})
                assert (answer.status_code, answer.content) == (206, XORB[first : last + 1])
            assert client.get(block_path(1, "model.bin")).content == build(BODY[BLOCK:])


def test_the_last_block(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(_get(block_path(1, "model.bin"), "Connection: close"))
    assert _rest(connection).endswith(b"\r\n\r\n" + build(BODY[BLOCK:]))


def test_a_slow_reader_gets_every_byte(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert _begin(connection, "Connection: close") + _rest(connection, 10_000) == XORB


def test_a_file_that_is_not_in_memory(blob: Path, connect: Callable[[], socket.socket]) -> None:
    with blob.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    connection = connect()
    assert _begin(connection, "Connection: close") + _rest(connection) == XORB


def test_many_ranges_on_one_connection(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    asked = [_get(PATH, f"Range: bytes={first}-{last}") for first, last in SPANS]
    connection.sendall(b"".join(asked) + _get(PATH, "Range: bytes=0-0", "Connection: close"))
    said = _rest(connection)
    for first, last in SPANS:
        said = said.partition(b"\r\n\r\n")[2]
        assert said.startswith(XORB[first : last + 1])
        said = said[last - first + 1 :]
    assert said.endswith(b"\r\n\r\n\0")


def test_clients_that_leave_leave_nothing_behind(
    blob: Path, connect: Callable[[], socket.socket]
) -> None:
    readers = [connect() for _ in range(10)]
    for reader in readers:
        _begin(reader)
    assert _is_open(blob)
    readers[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    for reader in readers:
        reader.close()
    until(lambda: not _is_open(blob))


def test_a_file_that_becomes_shorter_is_never_padded(
    blob: Path, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    start = _begin(connection)
    os.truncate(blob, BLOCK // 2)
    found = start + _rest(connection)
    assert len(found) < len(XORB)
    assert XORB.startswith(found)
    until(lambda: not _is_open(blob))


def test_a_file_that_is_replaced_is_sent_as_it_was(
    blob: Path, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    start = _begin(connection, "Connection: close")
    other = blob.with_name("other")
    other.write_bytes(bytes(len(BODY)))
    other.rename(blob)
    assert start + _rest(connection) == XORB


def test_a_file_of_another_size_is_not_sent(
    blob: Path, connect: Callable[[], socket.socket]
) -> None:
    os.truncate(blob, len(BODY) - 1)
    connection = connect()
    connection.sendall(_get(PATH, "Connection: close"))
    said = _rest(connection)
    assert said.startswith(b"HTTP/1.1 503")
    assert XORB[8:64] not in said


# Where nobody is told

GGUF = {"model-Q8_0.gguf": b"GGUF" + bytes(100), "README.md": b"# A model\n", "sub/a.bin": b"a"}
INFO = {"xetEnabled": True, "downloads": 7, "siblings": [{"rfilename": "a", "xetHash": 64 * "b"}]}
API = "/api/models/Org/Model"
QUIET = [
    "/", "/v2/", "/api/whoami-v2", "/api/agent-harnesses", "/api/models-tags-by-type",
    "/api/datasets-tags-by-type", "/api/telemetry/x", "/v1/telemetry",
    "/api/models", "/api/models?full=true", "/api/models?expand=siblings&expand=xetEnabled",
    API, f"{API}?blobs=true", f"{API}?expand=xetEnabled&expand=siblings",
    f"{API}/revision/main", f"{API}/revision/{COMMIT}?blobs=true", f"{API}/refs",
    f"{API}/tree/main", f"{API}/tree/main?recursive=true&expand=true", f"{API}/tree/main/sub",
    f"{API}/tree/main?limit=1", f"{API}/paths-info/main", f"{API}/commits/main",
    f"{API}/treesize/main", f"{API}/discussions", f"{API}/auth-check",
    f"/api/resolve-cache/models/Org/Model/{COMMIT}/model-Q8_0.gguf",
    "/api/datasets/Org/Data/parquet",
    "/datasets/Org/Data/resolve/refs%2Fconvert%2Fparquet/c/s/0.parquet",
    "/Org/Model/resolve/main/model-Q8_0.gguf", "/Org/Model/resolve/main/sub/a.bin",
    "/Org/Model/resolve/main/README.md", "/Org/Model/resolve/main/none.bin",
    "/Org/Model/raw/main/model-Q8_0.gguf", "/Org/Model/raw/main/README.md",
    "/Org/Model", "/Org/Model/tree/main", "/Org/Model/blob/main/model-Q8_0.gguf",
    f"{API}/lfs-files", f"{API}/safetensors-metadata/none.json", "/api/organizations/Org/overview",
    "/v2/Org/Model/manifests/latest", "/v2/Org/Model/blobs/sha256:none",
]  # fmt: skip


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A server of `--no-xet`."""
    folder = tmp_path_factory.mktemp("quiet")
    make(folder / "hub", GGUF, info=INFO)
    make(
        folder / "hub", {"c/s/0.parquet": b"0"}, DATASET, info=INFO, refs=("refs/convert/parquet",)
    )
    state = State(folder / "state")
    with closing(Digests(state)) as digests:
        source = HfCache(folder / "hub", digests, managed=True)
        with serving(state, source, xet_hashes=XetHashes(digests, advertise=False)) as client:
            yield client


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("path", QUIET)
def test_no_hint_leaves_the_server(quiet: httpx2.Client, path: str, method: str) -> None:
    data = {"paths": [*GGUF, "sub"], "expand": "true"} if method == "POST" else None
    answer = quiet.request(method, path, data=data)
    assert "xet" not in f"{answer.headers}{answer.text}".lower()
    assert "link" not in answer.headers or "next" in answer.links


def test_that_is_every_route_of_a_repository() -> None:
    matches = [ROUTER.match(path.partition("?")[0].encode()) for path in QUIET]
    asked = {match.route.name for match in matches if match}
    of_repositories = {
        route.name
        for route in ROUTES
        if any("{repo}" in one or one.startswith("/api/") for one in route.templates)
    }
    beside = {
        "blocks", "cas-telemetry", "lfs-batch", "not-offered", "reconstructions", "repo-git-refs",
        "repo-git-upload-pack", "xet-read-token",
        *(route.name for route in declined.ROUTES),
    }  # fmt: skip
    assert asked >= of_repositories - beside


def test_clients_that_know_hashes_are_answered_all_the_same(quiet: httpx2.Client) -> None:
    token = quiet.get(f"{API}/xet-read-token/main").json()
    for form in FORMS:
        body = quiet.get(f"{token['casUrl']}/{form}/{xet_hash('model-Q8_0.gguf')}").json()
        assert read(quiet, body, 999) == GGUF["model-Q8_0.gguf"]


# A file that becomes another


@pytest.fixture
def weights(hub: Path) -> Path:
    """A file of a foreign cache that is no link, which somebody may replace."""
    weights = repo_dir(hub) / "snapshots" / COMMIT / "model.safetensors"
    write(weights, BLOCK * b"A")
    write(repo_dir(hub) / "refs" / "main", COMMIT.encode())
    return weights


def _replace(weights: Path, body: bytes) -> None:
    """Write another file beside it, and give that its name."""
    new = weights.with_name("new")
    new.write_bytes(body)
    new.replace(weights)


@pytest.mark.parametrize("ttl_s", [0, 60], ids=["looked at again", "within the hold"])
@pytest.mark.parametrize("size", [BLOCK, BLOCK + 5, BLOCK - 5], ids=["same", "longer", "shorter"])
def test_a_block_is_of_the_content_that_it_was_told_for(
    hub: Path, state: State, weights: Path, ttl_s: float, size: int
) -> None:
    with closing(Digests(state)) as digests:
        source = HfCache(hub, digests, managed=False, ttl_s=ttl_s)
        with serving(state, source, xet_hashes=XetHashes(digests)) as client:
            path = "/Org/Model/resolve/main/model.safetensors"
            while "x-xet-hash" not in (head := client.head(path)).headers:
                time.sleep(0.05)
            told = client.get(f"{API}/xet-read-token/main").json()["casUrl"]
            body = client.get(f"{told}/{FORMS[0]}/{head.headers['x-xet-hash']}").json()
            assert read(client, body, BLOCK) == BLOCK * b"A"
            _replace(weights, size * b"B")
            for url, span in [(url, span) for _, url, span in fetches(body)] * 3:
                answer = client.get(url, headers={"range": f"bytes={span['start']}-{span['end']}"})
                assert answer.status_code in ((503,) if ttl_s else (403, 503))
                assert b"B" * 9 not in answer.content
            assert client.get(path).status_code in ((503,) if ttl_s else (200, 503))


def test_a_page_that_is_there_vouches_for_no_other(tmp_path: Path) -> None:
    """A step of a xorb ends in the middle of a page, where the next begins."""
    file = tmp_path / "file"
    file.write_bytes(bytes(8 * CHUNK))
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(opened.fileno(), 1, 0)
        try:
            os.preadv(opened.fileno(), [bytearray(1)], 7 * CHUNK, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError as exc:
            pytest.skip(f"this file system does not tell what is in memory: {exc}")
        else:
            pytest.skip("this file system keeps all in memory")
        message = {"file": opened, "offset": 0, "parts": [(b"12345678", CHUNK)] * 8}
        left, right = socket.socketpair()
        with left, right:
            sending = asyncio.run(_made(left, message))
            assert sending._is_warm(4096)
            assert not sending._is_warm(CHUNK)
            sending._socket.close()


async def _made(client: socket.socket, message: dict[str, Any]) -> protocol.Sending:
    return protocol.Sending(client, message)
