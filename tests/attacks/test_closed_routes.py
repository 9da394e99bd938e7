"""A mirror with a token: no route, method or header opens anything to those who lack it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from mirror.core.repo import Repo
from mirror.core.tree import lfs_file
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.derived.xet_hashes import XetHashes
from mirror.openllm.served_files import OpenLLMFiles
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.store.publish import publish
from mirror.web.access import Signer
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from mirror.web.routes import ROUTER, ROUTES
from mirror.web.routing import Access
from mirror.web.xet import cas_path
from tests.folders import COMMIT, MODEL, OLDER, Content, make_managed, make_record, write
from tests.servers import run_server
from tests.wheels import make_wheel

TOKEN = "hf_" + 34 * "x"
OTHER = Repo.parse("Org/Other")
BODY = b"weights" * 1000
FILES = {"config.json": b'{"secret": 1}', "model.bin": BODY, "other.bin": BODY + b"x"}
SHA256 = hashlib.sha256(BODY).hexdigest()
XET_HASH = hashlib.sha256(b"xet").hexdigest()
CAS = cas_path(MODEL, COMMIT)
BLOCK = f"{CAS}/blocks/{SHA256}/0/model.bin"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
SECRETS = (b"secret", b"weights", b"tiny-a", COMMIT.encode(), b"Org/Model", b"hubmirror_requests")


@dataclass
class Reply:
    """What came of one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Raw:
    """Sends paths as they stand, all on one connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        self._connection.request(method, path, body or None, dict(headers or {}))
        answer = self._connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, told, answer.read())

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raw]:
    data = tmp_path_factory.mktemp("closed")
    for repo in (MODEL, OTHER):
        for commit in (OLDER, COMMIT):
            _make(data / "hub", Content(FILES, commit, repo))
    make_wheel(data / "wheels", "tiny-a")
    write(data / "openllm" / "a.txt", b"tiny-a==1.0\n")
    state = State(data / "state")
    with closing(Digests(state)) as digests:
        app = create_app(
            FirstFound([HfCache(data / "hub", digests, managed=True)]),
            state,
            proxy=ProxySettings(signer=Signer(TOKEN)),
            xet_hashes=XetHashes(digests),
            openllm_files=OpenLLMFiles(data, digests),
            ttl_s=60,
        )
        with run_server(app) as url, closing(Raw(url)) as raw:
            yield raw


def _make(hub: Path, content: Content) -> None:
    make_managed(hub, content)
    entries = content.entries
    entries["model.bin"] = lfs_file("model.bin", len(BODY), SHA256, XET_HASH)
    publish(hub, make_record(content, files=entries))


# What stands for the segments that a template names.
SAMPLES: dict[str, tuple[str, ...]] = {
    "type": ("models", "datasets", "spaces"),
    "prefix": ("datasets", "spaces"),
    "repo": ("Org/Model", "gpt2"),
    "commit": (COMMIT,),
    "revision+": ("main/config.json", f"{COMMIT}/config.json", "refs%2Fpr%2F1/config.json"),
    "path+": ("config.json",),
    "hash": (XET_HASH,),
    "etag": (SHA256,),
    "number": ("0",),
    "namespace": ("Org",),
    "name": ("Model",),
    "tag": (COMMIT,),
    "digest": (f"sha256:{SHA256}",),
    "host": ("github.com",),
    "owner": ("bentoml",),
    "project": ("tiny-a",),
    "file": ("tiny_a-1.0-py3-none-any.whl", "a.txt"),
}


def _paths(template: str) -> Iterator[str]:
    """Paths that a template stands for."""
    parts = [
        SAMPLES.get(part[1:-1], tuple(part[1:-1].split("|")) if "|" in part else ("x", ""))
        if part.startswith("{")
        else (part,)
        for part in template.split("/")
    ]
    yield from ("/".join(chosen) for chosen in itertools.product(*parts))


def _all_paths() -> Iterator[str]:
    yield from ("/nowhere", "/favicon.ico", "//", "/%2e", "/readyz/x")
    for route in ROUTES:
        if route.access is not Access.OPEN:
            for template in route.templates:
                yield from _paths(template)
    yield from ("/api/models?search=Model&full=true", BLOCK)
    yield "/-/git/github.com/bentoml/openllm-models/info/refs?service=git-upload-pack"


PATHS = list(dict.fromkeys(_all_paths()))


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


VARIANTS: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": _basic(f"{TOKEN}:wrong")},
    {
        "X-Authorization": f"Bearer {TOKEN}",
        "Cookie": f"token={TOKEN}",
        "Proxy-Authorization": TOKEN,
    },
    {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/healthz", "X-Rewrite-URL": "/healthz"},
    {"X-HTTP-Method-Override": "GET", "Host": "localhost", "Range": "bytes=0-10"},
]


def _open(path: str) -> bool:
    return path in ("/healthz", "/readyz", "/v1/telemetry")


def test_every_route_has_a_path_here() -> None:
    """So that a route which is added is asked for, too."""
    matches = [ROUTER.match(path.partition("?")[0].encode()) for path in PATHS]
    found = {match.route.name for match in matches if match}
    assert found == {route.name for route in ROUTES if route.access is not Access.OPEN}


def test_no_route_is_open(raw: Raw) -> None:
    opened, asked = [], 0
    for number, (path, method) in enumerate(itertools.product(PATHS, METHODS)):
        # Every route by every method, and with each of the variants by some.
        for variant in ({}, VARIANTS[number % len(VARIANTS)]):
            answer = raw.ask(method, path, variant)
            asked += 1
            told = answer.body + str(answer.headers).encode()
            is_told = any(secret in told for secret in SECRETS)
            if answer.status not in (401, 403) or is_told:
                opened.append((method, path, variant, answer.status))
    assert opened == []
    assert asked > 2000


def test_the_token_opens_them(raw: Raw) -> None:
    """Else what is said above would say little."""
    token = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/", "/api/models/Org/Model", "/Org/Model/resolve/main/config.json", "/metrics"):
        assert raw.ask("GET", path, token).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/telemetry"])
def test_what_is_open_tells_no_name(raw: Raw, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE"):
        answer = raw.ask(method, path)
        assert answer.status in (200, 204, 403, 404, 405)
        assert not any(secret in answer.body for secret in SECRETS)


def _access(path: str = CAS, after: int = 600, token: str = TOKEN) -> str:
    return Signer(token).access_token(path, int(time.time()) + after)


def _signed(path: str, signed: str | None = None, after: int = 600, token: str = TOKEN) -> str:
    return path + Signer(token).query(signed or path, int(time.time()) + after)


RECONSTRUCTION = f"{CAS}/v2/reconstructions/{XET_HASH}"
ACCESS = {
    "of another commit": _access(cas_path(MODEL, OLDER)),
    "of another repository": _access(cas_path(OTHER, COMMIT)),
    "of another kind": _access(CAS.replace("/models/", "/datasets/")),
    "of a part of the path": _access(CAS[:-1]),
    "of the whole path": _access(RECONSTRUCTION),
    "expired": _access(after=-1),
    "of another token": _access(token="hf_y"),
    "of no token": "open",
    "truncated": _access()[:-1],
    "longer": f"{_access()}0",
    "its signature alone": _access().partition(".")[2],
    "its time alone": _access().partition(".")[0],
    "a later time": f"{int(time.time()) + 9999}.{_access().partition('.')[2]}",
    "a time with a sign": f"+{_access()}",
    "a space in it": _access().replace(".", ". "),
    "in capitals": _access().upper(),
    "empty": "",
    "a query's": _signed(BLOCK).partition("signature=")[2],
    "unlike digits": _access().replace("1", "\u0661").encode().decode("latin-1"),
}


@pytest.mark.parametrize("name", ACCESS)
def test_a_forged_access_token(raw: Raw, name: str) -> None:
    for path in (RECONSTRUCTION, f"{CAS}/reconstruction/{XET_HASH}", f"{CAS}/v1/telemetry"):
        for scheme in ("Bearer", "bearer"):
            answer = raw.ask("GET", path, {"Authorization": f"{scheme} {ACCESS[name]}"})
            assert answer.status == 401


def test_an_access_token_in_its_place_alone(raw: Raw) -> None:
    """It opens the routes of its commit, and neither the hub's own nor the data."""
    header = {"Authorization": f"Bearer {_access()}"}
    assert raw.ask("GET", RECONSTRUCTION, header).status == 200
    others = (
        "/", "/api/models/Org/Model", "/Org/Model/resolve/main/config.json", "/metrics",
        f"/api/models/Org/Model/xet-read-token/{COMMIT}", RECONSTRUCTION.replace(COMMIT, OLDER),
        RECONSTRUCTION.replace("/Model", "/Other"),
    )  # fmt: skip
    for path in others:
        assert raw.ask("GET", path, header).status == 401
    assert raw.ask("GET", BLOCK, header).status == 403
    assert raw.ask("GET", f"{RECONSTRUCTION}?access_token={_access()}").status == 401
    expires, _, signature = _access().partition(".")
    query = f"?expires={expires}&signature={signature}"
    assert raw.ask("GET", RECONSTRUCTION + query).status == 401
    assert raw.ask("GET", BLOCK + query).status == 403


OTHER_BLOCK = BLOCK.replace("/Org/Model/", "/Org/Other/")
QUERIES = {
    "none": BLOCK,
    "of another commit": _signed(BLOCK, BLOCK.replace(COMMIT, OLDER)),
    "of another repository": _signed(BLOCK, OTHER_BLOCK),
    "of another block": _signed(BLOCK, BLOCK.replace("/0/", "/1/")),
    "of another file": _signed(BLOCK, BLOCK.replace("model.bin", "other.bin")),
    "of the commit": _signed(BLOCK, CAS),
    "expired": _signed(BLOCK, after=-1),
    "of another token": _signed(BLOCK, token="hf_y"),
    "truncated": _signed(BLOCK)[:-1],
    "longer": f"{_signed(BLOCK)}0",
    "no time": BLOCK + "?" + _signed(BLOCK).partition("&")[2],
    "no signature": _signed(BLOCK).partition("&")[0],
    "a later time": _signed(BLOCK).replace("expires=", "expires=9"),
    "two times": _signed(BLOCK).replace("?", "?expires=99999999999&"),
    "twice encoded": quote(_signed(BLOCK), safe="/?=&%").replace("model.bin", "model%2Ebin"),
    "an encoded slash": _signed(BLOCK).replace("/0/", "%2F0/"),
    "two slashes": _signed(BLOCK).replace("/0/", "//0/"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_forged_signature(raw: Raw, name: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {_access()}"}):
        answer = raw.ask("GET", QUERIES[name], headers)
        assert (answer.status, b"weights" in answer.body) in ((401, False), (403, False))


def test_a_signature_in_its_place_alone(raw: Raw) -> None:
    assert b"weights" in raw.ask("GET", _signed(BLOCK)).body
    query = _signed(BLOCK).partition("?")[2]
    assert (
        raw.ask("GET", BLOCK, {"X-Query": query, "Authorization": f"Bearer {query}"}).status == 403
    )
    for path in (RECONSTRUCTION, "/Org/Model/resolve/main/config.json", "/metrics"):
        assert raw.ask("GET", f"{path}?{query}").status == 401
        assert raw.ask("GET", _signed(path)).status == 401


def test_the_mirrors_token_opens_no_block_by_itself(raw: Raw) -> None:
    """A data URL is asked for by its signature, and by nothing else."""
    token = {"Authorization": f"Bearer {TOKEN}"}
    assert raw.ask("GET", BLOCK, token).status == 403
    told = json.loads(raw.ask("GET", f"/api/models/Org/Model/xet-read-token/{COMMIT}", token).body)
    header = {"Authorization": f"Bearer {told['accessToken']}"}
    assert raw.ask("GET", RECONSTRUCTION, header).status == 200
