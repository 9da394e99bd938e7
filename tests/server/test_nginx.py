"""Behind nginx, with the configuration that deploy/nginx gives: nginx sends the large files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from mirror.derived.state import State
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from tests.folders import COMMIT, Content, make_classic
from tests.nginx import needs_nginx, run_nginx
from tests.servers import run_server

BODY = os.urandom(1 << 20)
FILES = {"model weights.bin": BODY, "config.json": b"{}", "empty.txt": b""}
PATH = "/Org/Model/resolve/main/model%20weights.bin"

pytestmark = needs_nginx


@pytest.fixture
def nginx(tmp_path: Path, hub: Path, foreign: HfCache, state: State) -> Iterator[httpx2.Client]:
    """A client of a real nginx in front of the mirror."""
    make_classic(hub, Content(FILES), ref="refs/pr/1")
    make_classic(hub, Content(FILES))
    app = create_app(FirstFound([foreign]), state, ttl_s=0, proxy=ProxySettings(accel="nginx"))
    with (
        run_server(app) as behind,
        run_nginx(tmp_path, behind) as url,
        httpx2.Client(base_url=url) as client,
    ):
        yield client


def test_a_large_file(nginx: httpx2.Client) -> None:
    answer = nginx.get(PATH)
    sha256 = Content(FILES).entries["model weights.bin"].lfs_sha256
    assert answer.content == BODY
    assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{sha256}"'
    assert answer.headers["x-repo-commit"] == COMMIT
    assert answer.headers["x-linked-size"] == str(len(BODY))
    assert "x-accel-redirect" not in answer.headers


def test_a_range_of_a_large_file(nginx: httpx2.Client) -> None:
    answer = nginx.get(PATH, headers={"range": "bytes=1000-300000"})
    assert (answer.status_code, answer.content) == (206, BODY[1000:300001])
    assert answer.headers["content-range"] == f"bytes 1000-300000/{len(BODY)}"


def test_a_range_past_the_end(nginx: httpx2.Client) -> None:
    answer = nginx.get(PATH, headers={"range": f"bytes={len(BODY)}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(BODY)}"


def test_a_range_of_an_empty_file(nginx: httpx2.Client) -> None:
    answer = nginx.get("/Org/Model/resolve/main/empty.txt", headers={"range": "bytes=0-0"})
    assert answer.status_code == 200


def test_an_encoded_revision_reaches_the_mirror(nginx: httpx2.Client) -> None:
    assert nginx.get("/Org/Model/resolve/refs%2Fpr%2F1/config.json").content == b"{}"


def test_links_lead_to_nginx(nginx: httpx2.Client) -> None:
    answer = nginx.get("/api/models/Org/Model/tree/main?limit=1")
    assert answer.headers["link"].startswith(f"<{nginx.base_url}/api/models")


def test_files_of_the_host_cannot_be_asked_for(nginx: httpx2.Client) -> None:
    assert nginx.get("/-/files/etc/hostname").status_code == 404


def test_a_client_that_is_no_trusted_proxy_gets_the_bytes(
    hub: Path, foreign: HfCache, state: State
) -> None:
    make_classic(hub, Content(FILES))
    proxy = ProxySettings(trusted_proxies=(), accel="nginx")
    app = create_app(FirstFound([foreign]), state, ttl_s=0, proxy=proxy)
    with run_server(app) as url:
        answer = httpx2.get(url + PATH)
    assert answer.content == BODY
    assert "x-accel-redirect" not in answer.headers
