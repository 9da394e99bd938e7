"""A hub that cannot be reached: certificates, http, names, and types of repositories."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mirror.core.errors import UpstreamError
from mirror.core.repo import Repo
from mirror.server.certificates import init, issue
from mirror.sync.upstream import Upstream
from tests.carried import hubmirror, start
from tests.filling import MODEL, Filling
from tests.hub import HubSimulator


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[str]:
    """A hub without repositories, whose certificate has a private authority."""
    init(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issue(tmp_path / "ca", ["127.0.0.1"]))
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(20)


def _pull(tmp_path: Path, url: str, repo: str = MODEL) -> str:
    (tmp_path / "data").mkdir(exist_ok=True)
    output = hubmirror(tmp_path / "data", "pull", repo, "--upstream", url, status=1).output
    return " ".join(output.split())


def test_an_untrusted_certificate_is_not_retried(secure: str, tmp_path: Path) -> None:
    said = _pull(tmp_path, secure)
    assert "This host does not trust its certificate." in said
    assert "set SSL_CERT_FILE to a PEM file" in said
    assert "Retry in" not in said


def test_an_authority_of_the_site_is_trusted(
    secure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca" / "ca.pem"))
    (tmp_path / "data").mkdir()
    process = start(
        tmp_path / "data", "pull", MODEL, "--upstream", secure, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    process.kill()
    process.communicate(timeout=30)
    assert line == "warning: org/model: status 501. Retry in 1 s.\n"  # the server knows no GET


def test_a_name_that_is_unknown_is_in_the_line() -> None:
    causes: list[str] = []
    upstream = Upstream(
        "http://hub.invalid", first_wait=0.001, retrying=lambda cause, _: causes.append(cause)
    )
    with pytest.raises(UpstreamError, match=r"hub\.invalid cannot be reached: "):
        upstream.head(Repo.parse(MODEL), "main")
    assert causes[0].startswith("org/model: hub.invalid cannot be reached: ")


def test_http_where_https_was_written_is_not_retried(filling: Filling, tmp_path: Path) -> None:
    said = _pull(tmp_path, filling.url.replace("http://", "https://"))
    assert "It does not answer with TLS. Write http://" in said
    assert "Retry in" not in said


@pytest.mark.parametrize("kind", ["datasets", "spaces"])
def test_a_repository_of_another_type_is_suggested(
    simulator: HubSimulator, filling: Filling, kind: str
) -> None:
    simulator.repo(f"{kind}/org/squad").commit({"a": b"b"})
    output = " ".join(filling.run("pull", "org/squad", status=1).output.split())
    assert f"org/squad is not on {filling.url}, but {kind}/org/squad is." in output
    assert f"Pull {kind}/org/squad." in output
