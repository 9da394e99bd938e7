"""Details of HTTP that some client relies on."""

from __future__ import annotations

import io
from ipaddress import ip_network
from pathlib import Path

import httpx2
import pytest

from mirror.derived.state import State
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from mirror.web.observe import AccessLog, Logs
from mirror.web.proxy import ProxySettings
from tests.conftest import Serve
from tests.folders import Content, make_managed
from tests.servers import run_server

PATH = "/Org/Model/resolve/main/config.json"
ETAG = f'"{Content().entries["config.json"].etag}"'


@pytest.fixture
def client(hub: Path, managed: HfCache, serve: Serve) -> httpx2.Client:
    make_managed(hub)
    return serve(managed)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (ETAG, 304), (f"W/{ETAG}", 304), (f'"other", W/{ETAG}', 304), ("*", 304),
        ('"other"', 200), ('W/"other", "more"', 200), ("", 200), (ETAG.strip('"'), 200),
    ],
)  # fmt: skip
def test_if_none_match(client: httpx2.Client, given: str, status: int) -> None:
    assert client.get(PATH, headers={"if-none-match": given}).status_code == status


def test_scripts_of_other_origins(client: httpx2.Client) -> None:
    answer = client.get(PATH, headers={"origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-repo-commit" in answer.headers["access-control-expose-headers"].lower()
    asked = {"origin": "https://app.example", "access-control-request-method": "GET"}
    headers = {**asked, "access-control-request-headers": "range, authorization"}
    preflight = client.options(PATH, headers=headers)
    assert preflight.status_code == 200
    assert "GET" in preflight.headers["access-control-allow-methods"]
    assert "access-control-allow-origin" not in client.get(PATH).headers


def test_options(client: httpx2.Client) -> None:
    answer = client.options(PATH)
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("body", "status"),
    [({"operation": "download"}, 400), ({"operation": "upload"}, 403), ([], 400)],
)
def test_a_batch_of_git_lfs(client: httpx2.Client, body: object, status: int) -> None:
    answer = client.post("/Org/Model.git/info/lfs/objects/batch", json=body)
    assert answer.status_code == status


def test_the_log_has_the_client_behind_a_trusted_proxy(
    hub: Path, managed: HfCache, state: State
) -> None:
    make_managed(hub)
    log = io.StringIO()
    networks = [ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8")]
    proxy = ProxySettings(trusted_proxies=networks)
    app = create_app(managed, state, proxy=proxy, logs=Logs(AccessLog(log, "text")))
    chains = {
        "192.0.2.7": "192.0.2.7",
        "198.51.100.9, 192.0.2.7": "192.0.2.7",
        "192.0.2.7, 10.1.1.1": "192.0.2.7",
        "nonsense, 10.1.1.1": "10.1.1.1",
        "": "127.0.0.1",
    }
    with run_server(app) as url:
        for chain in chains:
            httpx2.get(f"{url}/healthz", headers={"x-forwarded-for": chain} if chain else {})
    assert [line.split()[1] for line in log.getvalue().splitlines()] == list(chains.values())
