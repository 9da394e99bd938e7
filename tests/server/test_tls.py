"""The private authority, and https as the names that it is for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mirror.core.errors import ConfigError
from mirror.server.certificates import init, issue
from mirror.web.xorb import BLOCK
from tests.carried import hubmirror
from tests.folders import Content, make_managed
from tests.web.test_xet import ask, make, read, xet_hash
from tests.wheels import commit, git, needs_git, serve_bare

NAMES = ("hub.example", "mirror.lan", "127.0.0.1")
BIG = "big \u00fc.bin"
BODY = Random("tls").randbytes(1_000_003) * 20
LARGE = f"/Org/Model/resolve/main/{BIG}"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")


# The authority


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The folder of an authority."""
    init(tmp_path / "ca")
    return tmp_path / "ca"


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_an_authority_keeps_its_key_for_itself(tmp_path: Path) -> None:
    made = init(tmp_path / "deep" / "ca")
    assert made == tmp_path / "deep" / "ca" / "ca.pem"
    assert (made.parent / "ca.key").stat().st_mode & 0o777 == 0o600
    assert made.parent.stat().st_mode & 0o777 == 0o700
    assert made.stat().st_mode & 0o777 == 0o644
    assert b"PRIVATE" not in made.read_bytes()
    assert sorted(path.name for path in made.parent.iterdir()) == ["ca.key", "ca.pem"]


def test_an_authority_may_sign_servers_and_no_other_authority(ca: Path) -> None:
    made = certificate(ca / "ca.pem")
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, True)
    assert constraints.value.path_length == 0
    usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.key_encipherment) == (True, False)
    left = made.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=3600) < left < timedelta(days=3660)


@pytest.mark.parametrize("missing", ["", "ca.pem", "ca.key"])
def test_an_authority_is_never_replaced(ca: Path, missing: str) -> None:
    if missing:
        (ca / missing).unlink()
    before = {path.name: path.read_bytes() for path in ca.iterdir()}
    with pytest.raises(ConfigError, match="already holds an authority"):
        init(ca)
    assert {path.name: path.read_bytes() for path in ca.iterdir()} == before


def test_the_command_tells_what_is_next(tmp_path: Path) -> None:
    said = hubmirror(tmp_path / "data", "ca", "init", "--ca", str(tmp_path / "x")).stdout
    assert str(tmp_path / "x" / "ca.pem") in said
    assert "hubmirror serve --tls --names" in said
    said = hubmirror(tmp_path / "data", "ca", "init", "--ca", str(tmp_path / "x"), status=1).output
    assert "already holds an authority" in said
    hubmirror(tmp_path / "data", "ca", "init")
    assert (tmp_path / "hubmirror-ca" / "ca.key").exists()


# A certificate


def listed(file: Path) -> list[str]:
    value = certificate(file).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(one.value) for one in value]


def test_a_certificate_lists_its_names(ca: Path) -> None:
    file = issue(ca, [*NAMES, "::1", "UPPER.example"])
    assert listed(file) == [*NAMES, "::1", "upper.example"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" in file.read_bytes()
    left = certificate(file).not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=390) < left <= timedelta(days=397)


def test_a_certificate_is_proven_by_its_authority(ca: Path) -> None:
    certificate(issue(ca, NAMES)).verify_directly_issued_by(certificate(ca / "ca.pem"))


def test_a_certificate_is_kept_while_it_fits(ca: Path) -> None:
    before = issue(ca, NAMES).read_bytes()
    assert issue(ca, NAMES).read_bytes() == before
    for names in (NAMES[:2], (*NAMES, "x.example"), NAMES):
        after = issue(ca, names).read_bytes()
        assert after != before
        assert listed(ca / "server.pem") == list(names)
        before = after


@pytest.mark.parametrize("body", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_certificate_is_made_again(ca: Path, body: bytes) -> None:
    issue(ca, NAMES).write_bytes(body)
    assert listed(issue(ca, NAMES)) == list(NAMES)


def test_a_certificate_without_its_key_is_made_again(ca: Path) -> None:
    file = issue(ca, NAMES)
    file.write_bytes(certificate(file).public_bytes(serialization.Encoding.PEM))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(issue(ca, NAMES))


def test_a_certificate_of_another_authority_is_made_again(ca: Path, tmp_path: Path) -> None:
    init(tmp_path / "other")
    shutil.copy(issue(tmp_path / "other", NAMES), ca / "server.pem")
    certificate(issue(ca, NAMES)).verify_directly_issued_by(certificate(ca / "ca.pem"))


def _old(ca: Path, left: timedelta) -> Path:
    """Put a certificate there that soon ends."""
    file = issue(ca, NAMES)
    one, signer = certificate(file), (ca / "ca.key").read_bytes()
    builder = x509.CertificateBuilder(
        one.issuer, one.subject, one.public_key(), x509.random_serial_number(),
        datetime.now(UTC) - timedelta(days=390), datetime.now(UTC) + left, list(one.extensions),
    )  # fmt: skip
    key = serialization.load_pem_private_key(signer, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    built = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    file.write_bytes(file.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0] + built)
    return file


@pytest.mark.parametrize(("days", "stays"), [(-1, False), (0, False), (29, False), (31, True)])
def test_a_certificate_is_renewed_a_month_before_its_end(
    ca: Path,
    days: int,
    stays: bool,  # noqa: FBT001
) -> None:
    before = _old(ca, timedelta(days=days)).read_bytes()
    assert (issue(ca, NAMES).read_bytes() == before) is stays


def test_there_is_no_authority(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no authority in .*Create one: hubmirror ca init --ca"):
        issue(tmp_path / "none", NAMES)


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
@pytest.mark.parametrize("body", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_authority(ca: Path, name: str, body: bytes) -> None:
    (ca / name).write_bytes(body)
    with pytest.raises(ConfigError, match=r"authority"):
        issue(ca, NAMES)


def test_a_key_that_is_not_the_authoritys(ca: Path, tmp_path: Path) -> None:
    """What it signs, no client would take."""
    init(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "ca.key", ca / "ca.key")
    with pytest.raises(ConfigError, match=r"ca\.key is not the key of"):
        issue(ca, NAMES)


def test_names_are_needed(ca: Path) -> None:
    with pytest.raises(ConfigError, match=r"TLS needs at least one name. Add: --names"):
        issue(ca, [])


@pytest.mark.parametrize(
    "name", ["", " ", "https://hub.example", "hub.example:443", "hub.example/", "a b", "*.example",
             "h\u00fcb.example", "hub..example", "-", 300 * "a", "[::1]", "a\nb"],
)  # fmt: skip
def test_a_name_that_is_none(ca: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a valid name for a certificate"):
        issue(ca, ["hub.example", name])


# Serving


@dataclass(frozen=True)
class Server:
    """A running `hubmirror serve --tls`."""

    process: subprocess.Popen[bytes]
    port: int
    tls_port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def trust(self) -> str:
        return str(self.folder / "hubmirror-ca" / "ca.pem")

    def context(self) -> ssl.SSLContext:
        """What a strict client trusts."""
        made = ssl.create_default_context(cafile=self.trust)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, verify=self.context(), timeout=20)

    def connect(self, name: str, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A connection for a name, as if DNS said that it is here."""
        plain = socket.create_connection(("127.0.0.1", self.tls_port), 10)
        return (context or self.context()).wrap_socket(plain, server_hostname=name)

    def until_logged(self, mark: str) -> str:
        deadline = time.monotonic() + 10
        while mark not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        return next(line for line in self.log.splitlines() if mark in line)

    def environment(self) -> dict[str, str]:
        """Of a client that trusts the authority and nothing else."""
        return {"PATH": os.environ["PATH"], "SSL_CERT_FILE": self.trust, "HOME": str(self.folder)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(folder: Path, names: Sequence[str] = NAMES, *words: str) -> Iterator[Server]:
    """`hubmirror serve --tls` in a process of its own."""
    if not (folder / "hubmirror-ca").exists():
        init(folder / "hubmirror-ca")
    port, tls_port = free_port(), free_port()
    flags = [flag for name in names for flag in ("--names", name)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mirror", "serve", "--port", str(port), "--tls", "--tls-port",
             str(tls_port), *flags, *words],
            cwd=folder, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
    server = Server(process, port, tls_port, folder)
    try:
        _until_up(server)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _until_up(server: Server) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(httpx2.TransportError, OSError), server.client() as client:
            client.get("/healthz")
            return
        assert server.process.poll() is None, server.log
        assert time.monotonic() < deadline, server.log
        time.sleep(0.05)


@pytest.fixture(scope="module", params=["1", "2"], ids=["one", "two"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """By one worker and by two; it offers a large file, by Xet as well, and a git repository."""
    folder = tmp_path_factory.mktemp("tls")
    make(folder / "data" / "hub", {BIG: BODY})
    commit(folder / "upstream", {"a": b"b"})
    serve_bare(folder / "upstream", folder / "data")
    words = ("--workers", request.param, "--xet-min-size", "0")
    with serving(folder, NAMES, *words) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


def test_https_is_beside_http(server: Server, client: httpx2.Client) -> None:
    plain = httpx2.get(f"http://127.0.0.1:{server.port}/api/models").json()
    assert client.get("/api/models").json() == plain
    assert [row["id"] for row in plain] == ["Org/Model"]


def test_links_of_http_are_not_given_to_https(server: Server, client: httpx2.Client) -> None:
    """Both may have the same Host header; an answer is remembered for a second."""
    host = {"host": "hub.example"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}") as plain:
        for _ in range(4):
            for one, scheme in ((plain, "http"), (client, "https")):
                link = one.head(LARGE, headers=host).headers["link"]
                assert link.startswith(f"<{scheme}://hub.example/"), link


@pytest.mark.parametrize("name", [*NAMES, "HUB.example"])
def test_every_name_is_answered_to(server: Server, name: str) -> None:
    """By a strict client, with a chain that is whole."""
    for _ in range(4):  # by each of the workers, most likely
        with server.connect(name) as connection:
            connection.sendall(
                f"GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"HF_ENDPOINT=https://{name}\n".encode() in answer
        assert re.search(rb"\r\ndate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n", answer)


def test_a_name_that_is_not_listed_does_not_fit_and_is_logged(server: Server) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"Hostname mismatch.*other\.example"):
        server.connect("other.example")
    line = server.until_logged("other.example")
    assert "add it with --names" in line
    assert httpx2.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200


def test_a_name_makes_no_second_line_in_the_log(server: Server) -> None:
    loose = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loose.check_hostname, loose.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLError, UnicodeError):
        server.connect("evil\n2026-01-01 00:00:00,000 INFO forged", loose).close()
    server.connect("after.example", loose).close()
    server.until_logged("after.example")
    assert "\n2026-01-01 00:00:00,000 INFO forged" not in server.log


def test_a_client_that_does_not_trust_it(server: Server) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        server.connect("hub.example", ssl.create_default_context(cafile=None))
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        server.connect("127.0.0.2")


def test_old_versions_of_tls_are_refused(server: Server) -> None:
    old = server.context()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.connect("hub.example", old)


def test_a_large_file_is_the_same(client: httpx2.Client) -> None:
    answer = client.get(LARGE)
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(BODY).digest()
    start, end = 5_000_001, 15_999_999
    part = client.get(LARGE, headers={"range": f"bytes={start}-{end}"})
    assert (part.status_code, part.content == BODY[start : end + 1]) == (206, True)
    assert client.head(LARGE).headers["content-length"] == str(len(BODY))


def test_blocks_of_xet_are_the_same(server: Server, client: httpx2.Client) -> None:
    told = client.get("/api/models/Org/Model/xet-read-token/main").json()
    assert told["casUrl"].startswith(f"{server.url}/-/cas/")
    asked = f"bytes=7-{BLOCK + 9}"
    body = ask(client, BIG, asked).json()
    assert read(client, body, BLOCK + 3) == BODY[7 : BLOCK + 10]
    assert client.head(LARGE).headers["x-xet-hash"] == xet_hash(BIG)


@pytest.mark.parametrize("xet", ["0", "1"], ids=["xet", "http"])
def test_the_real_client(server: Server, tmp_path: Path, xet: str) -> None:
    program = (
        "import hashlib, sys\n"
        "from huggingface_hub import hf_hub_download\n"
        f"path = hf_hub_download('Org/Model', {BIG!r}, local_dir=sys.argv[1])\n"
        "print(hashlib.sha256(open(path, 'rb').read()).hexdigest())\n"
    )
    environment = {**server.environment(), "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "got")],
        env={**environment, "HF_HUB_DISABLE_XET": xet}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == hashlib.sha256(BODY).hexdigest(), done.stderr


@needs_curl
def test_curl_trusts_it_by_a_variable(server: Server) -> None:
    url = f"https://hub.example:{server.tls_port}/api/models"
    to = f"hub.example:{server.tls_port}:127.0.0.1"
    command = ["curl", "--silent", "--show-error", "--fail", "--resolve", to, url]
    told = subprocess.run(command, env=server.environment(), capture_output=True, check=True)
    assert b'"id":"Org/Model"' in told.stdout
    empty = {"PATH": os.environ["PATH"], "HOME": str(server.folder)}
    refused = subprocess.run(command, env=empty, capture_output=True, check=False)
    assert refused.returncode == 60


@needs_git
def test_git_trusts_it_by_a_variable(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/-/git/github.com/bentoml/openllm-models"
    git(tmp_path, "clone", "--depth=1", url, "clone", GIT_SSL_CAINFO=server.trust)
    assert (tmp_path / "clone" / "a").read_bytes() == b"b"
    assert "certificate" in git(tmp_path, "clone", url, "other", status=128)


def test_what_is_no_tls_does_no_harm(server: Server, client: httpx2.Client) -> None:
    for said in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff", b""):
        with socket.create_connection(("127.0.0.1", server.tls_port), 5) as plain:
            plain.sendall(said)
            plain.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/1.1 2" not in plain.recv(1000)
    silent = [socket.create_connection(("127.0.0.1", server.tls_port), 5) for _ in range(50)]
    assert client.get("/healthz").status_code == 200
    for one in silent:
        one.close()


# Starting and stopping


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_lets_a_download_end(tmp_path: Path, workers: str) -> None:
    make_managed(tmp_path / "data" / "hub", Content({BIG: BODY}))
    with serving(tmp_path, NAMES, "--workers", workers) as server, server.client() as client:
        with client.stream("GET", LARGE) as answer:
            chunks = answer.iter_raw(65536)
            got = [next(chunks)]
            server.process.send_signal(signal.SIGTERM)
            _until_closed(server.tls_port)
            got += chunks
        assert b"".join(got) == BODY
        assert server.process.wait(15) in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log


def _until_closed(port: int) -> None:
    deadline = time.monotonic() + 9
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionError:
            return
        time.sleep(0.05)
    raise AssertionError("it still listens")


def test_other_names_give_another_certificate(tmp_path: Path) -> None:
    """And a rolling restart goes on serving."""
    make_managed(tmp_path / "data" / "hub")
    init(tmp_path / "hubmirror-ca")
    before = issue(tmp_path / "hubmirror-ca", NAMES).read_bytes()
    with serving(tmp_path, ["127.0.0.1", "new.example"], "--workers", "2") as server:
        assert (tmp_path / "hubmirror-ca" / "server.pem").read_bytes() != before
        with server.connect("new.example") as connection:
            assert ("DNS", "new.example") in dict(connection.getpeercert() or {})["subjectAltName"]
        with pytest.raises(ssl.SSLError):
            server.connect("hub.example")
        old = _children(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while _children(server.process.pid) & old:
            assert time.monotonic() < deadline
            with server.connect("new.example"):
                time.sleep(0.1)
        with server.client() as client:
            assert client.get("/healthz").status_code == 200


def _children(pid: int) -> set[int]:
    """The workers of a server."""
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(one) for one in told if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()}


def refused(folder: Path, *words: str) -> str:
    """What `serve` says where it does not start."""
    command = [sys.executable, "-m", "mirror", "serve", "--port", "0", "--tls", *words]
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=folder, env=path, capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    init(tmp_path / "hubmirror-ca")
    return tmp_path


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken(folder: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("--tls-port", port, "--names", "hub.example", "--workers", workers)
        said = refused(folder, *words)
    assert f"Cannot listen on 127.0.0.1 port {port}" in said
    assert "Choose another port with --tls-port" in said


def test_a_port_that_another_mirror_has(folder: Path, tmp_path: Path) -> None:
    """Both would answer in turn, each from its own folder."""
    (tmp_path / "other" / "data").mkdir(parents=True)
    with serving(tmp_path / "other", NAMES, "--workers", "1") as server:
        said = refused(folder, "--tls-port", str(server.tls_port), "--names", "hub.example")
    assert f"Cannot listen on 127.0.0.1 port {server.tls_port}" in said


def test_a_start_without_an_authority_or_names(folder: Path) -> None:
    port = ("--tls-port", str(free_port()))
    assert "TLS needs at least one name. Add: --names" in refused(folder, *port)
    said = refused(folder, *port, "--names", "hub.example", "--ca", "none")
    assert "There is no authority in none. Create one: hubmirror ca init --ca none" in said
