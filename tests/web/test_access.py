"""Who may read a mirror that has a token, and how clients send it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.openllm.served_files import OpenLLMFiles
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web.access import Signer
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from tests.conftest import Serve
from tests.folders import FILES, make_managed, write
from tests.servers import run_server
from tests.wheels import make_wheel

TOKEN = "hf_" + 34 * "x"
CONFIG = "/Org/Model/resolve/main/config.json"
WHEEL = "/-/wheels/tiny_a-1.0-py3-none-any.whl"
CLOSED = (
    CONFIG, WHEEL, f"{WHEEL}.metadata", "/", "/api/models", "/api/models/Org/Model",
    "/api/models/Org/None", "/api/whoami-v2", "/v2/", "/-/simple/", "/-/simple/tiny-a/",
    "/-/constraints/a.txt", "/-/identity", "/metrics", "/nowhere", "/healthz/", "/HEALTHZ",
    "//healthz", "/healthz%2f", "/healthz/../metrics", "/v1/telemetry/x", "/readyz/x",
    "/-/git/github.com/a/b/info/refs?service=git-upload-pack",
)  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A client that sends no token, of a server that remembers for long what it answered."""
    data = tmp_path_factory.mktemp("access")
    make_managed(data / "hub")
    make_wheel(data / "wheels", "tiny-a")
    write(data / "openllm" / "a.txt", b"tiny-a==1.0\n")
    state = State(data / "state")
    with closing(Digests(state)) as digests:
        source, proxy = (
            HfCache(data / "hub", digests, managed=True),
            ProxySettings(signer=Signer(TOKEN)),
        )
        app = create_app(
            FirstFound([source]),
            state,
            proxy=proxy,
            openllm_files=OpenLLMFiles(data, digests),
            ttl_s=60,
        )
        with run_server(app) as url, httpx2.Client(base_url=url, timeout=20) as client:
            yield client


def basic(password: str, user: str = "x") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


RIGHT = (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN}", basic(TOKEN), basic(TOKEN, ""),
         basic(TOKEN, "__token__"), basic(TOKEN).replace("Basic", "basic"))  # fmt: skip
WRONG = (
    "", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer x{TOKEN}",
    f"Token {TOKEN}", f"Bearer Bearer {TOKEN}", f"Bearer {TOKEN.upper()}", f"Basic {TOKEN}",
    "Basic", "Basic ====", "Basic /", basic(""), basic("wrong"), basic(f"{TOKEN}:x"),
    "Basic " + base64.b64encode(TOKEN.encode()).decode(), basic("x", TOKEN),
    "Basic " + base64.b64encode(b"x:\xff\xfe").decode(), "Bearer \u00e9", "Basic \u00e9",
    "Basic " + 9000 * "A",
)  # fmt: skip


@pytest.mark.parametrize("given", RIGHT)
def test_the_token_opens(client: httpx2.Client, given: str) -> None:
    headers = {"authorization": given}
    assert client.get(CONFIG, headers=headers).content == FILES["config.json"]
    assert client.get(WHEEL, headers=headers).status_code == 200
    assert client.get("/-/simple/tiny-a/", headers=headers).status_code == 200


@pytest.mark.parametrize("given", WRONG, ids=range(len(WRONG)))
def test_anything_else_does_not(client: httpx2.Client, given: str) -> None:
    headers = {b"authorization": given.encode("latin-1")} if given else {}
    for path in (CONFIG, WHEEL):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["x-error-code"] == "GatedRepo"
        assert "set HF_TOKEN" in answer.headers["x-error-message"]


@pytest.mark.parametrize("path", CLOSED)
def test_nothing_is_told_without_the_token(client: httpx2.Client, path: str) -> None:
    """Nor whether it is here."""
    base = str(client.base_url).rstrip("/")
    for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"):
        answer = client.request(method, base + path)
        assert (method, answer.status_code) == (method, 401)
        assert "json" in answer.headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/v1/telemetry")]
)
def test_health_and_telemetry_are_open(client: httpx2.Client, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 200
    assert client.request(method, path, headers={"authorization": "Bearer x"}).status_code == 200


def test_both_ways_of_sending_it_are_told(client: httpx2.Client) -> None:
    """Git, pip and uv send a password to those who ask for one."""
    told = client.get("/-/simple/").headers["www-authenticate"]
    assert told == 'Bearer, Basic realm="hubmirror"'


def test_a_token_in_the_address_is_a_password(client: httpx2.Client) -> None:
    url = str(client.base_url).replace("://", f"://x:{TOKEN}@")
    assert httpx2.get(f"{url.rstrip('/')}{CONFIG}").status_code == 200


def test_a_token_in_the_query_is_none(client: httpx2.Client) -> None:
    assert client.get(CONFIG, params={"token": TOKEN, "access_token": TOKEN}).status_code == 401


def test_what_was_just_told_to_one_is_not_told_to_another(client: httpx2.Client) -> None:
    for _ in range(3):
        assert client.get(CONFIG, headers={"authorization": RIGHT[0]}).status_code == 200
        assert client.get(CONFIG).status_code == 401


def test_headers_of_a_proxy_open_nothing(client: httpx2.Client) -> None:
    headers = {"x-forwarded-host": "hub.example", "x-forwarded-proto": "https",
               "x-forwarded-user": "root", "x-forwarded-for": "127.0.0.1",
               "x-original-url": "/healthz", "x-rewrite-url": "/healthz"}  # fmt: skip
    assert client.get(CONFIG, headers=headers).status_code == 401
    answer = client.get("/", headers={**headers, "authorization": RIGHT[0]})
    assert "HF_ENDPOINT=https://hub.example\n" in answer.text


def test_a_mirror_without_a_token_takes_any(hub: Path, managed: HfCache, serve: Serve) -> None:
    make_managed(hub)
    client = serve(managed)
    for given in (*RIGHT, *(one for one in WRONG if one.isascii())):
        assert client.get(CONFIG, headers={"authorization": given}).status_code == 200


@pytest.mark.parametrize("token", ["x", "\u00fc\u6f22", 5000 * "x"])
def test_any_token_will_do(hub: Path, managed: HfCache, serve: Serve, token: str) -> None:
    make_managed(hub)
    client = serve(managed, proxy=ProxySettings(signer=Signer(token)))
    assert client.get(CONFIG, headers={"authorization": basic(token)}).status_code == 200
    assert client.get(CONFIG, headers={"authorization": basic(token[:-1])}).status_code == 401


@pytest.mark.parametrize("path", ["/healthz/", "/healthz//", "/readyz/", "/metrics/"])
def test_no_one_is_sent_to_the_host_of_a_header(
    hub: Path, managed: HfCache, serve: Serve, path: str
) -> None:
    answer = serve(managed).get(path, headers={"host": "evil.example"})
    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert "evil.example" not in answer.text
