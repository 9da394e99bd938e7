"""What an operator sees: the log, the metrics, the health routes, and the one token."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror.config.specs import SourceSpec
from mirror.core.repo import Repo
from mirror.core.source import Snapshot
from mirror.derived.catalog import Catalog
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.pages.status import StatusBoard
from mirror.server.opened_sources import open_sources
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from mirror.web.access import Signer
from mirror.web.app import create_app
from mirror.web.observe import AccessLog, Logs, Metrics
from mirror.web.proxy import ProxySettings
from tests import folders
from tests.conftest import Serve, serving
from tests.folders import COMMIT, FILES, OLDER, Content
from tests.servers import run_server

TOKEN = "hf_" + 34 * "x"
SECRETS = {"authorization": f"Bearer {TOKEN}"}
CONFIG = "/Org/Model/resolve/main/config.json"
WHOLE = f"/Org/Model/resolve/{COMMIT}/config.json"


@dataclass(frozen=True)
class Command:
    """A running `hubmirror serve`, a client of it, and the file that holds its log."""

    client: httpx2.Client
    log: Path

    def line_of(self, mark: str) -> str:
        """The log line that holds the mark, once it is written."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if found := [line for line in self.log.read_text().splitlines() if mark in line]:
                return found[-1]
            time.sleep(0.01)
        raise AssertionError(f"no line with {mark}")


@contextmanager
def command(folder: Path, *words: str) -> Iterator[Command]:
    """`hubmirror serve` in a process of its own, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / f"log-{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mirror", "serve", "--port", str(port), *words],
            cwd=folder, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                _wait_until_up(client)
                yield Command(client, log)
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_up(client: httpx2.Client) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            client.get("/healthz")
        except httpx2.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="module", params=["text", "json"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Command]]:
    """A server of one model and of an unrecorded one, and the form of its log."""
    folder = tmp_path_factory.mktemp("running")
    folders.make_managed(folder / "data" / "hub")
    folders.make_classic(folder / "data" / "hub", Content(repo=Repo.parse("Org/Copied")))
    with command(folder, "--log-format", request.param) as started:
        yield request.param, started


# The log


def test_a_request_is_one_line(running: tuple[str, Command]) -> None:
    form, started = running
    started.client.get(CONFIG, headers={"user-agent": "one-line/1.0"})
    line = started.line_of("one-line/1.0")
    if form == "json":
        fields = json.loads(line)
        line = " ".join(str(fields[key]) for key in ("client", "method", "path", "status"))
    assert f"127.0.0.1 GET {CONFIG} 200" in line


def test_a_failed_request_names_its_code_and_id(running: tuple[str, Command]) -> None:
    _, started = running
    answer = started.client.get("/Org/Other/resolve/main/x", headers={"user-agent": "failed/1.0"})
    line = started.line_of("failed/1.0")
    assert "RepoNotFound" in line
    assert answer.headers["x-request-id"] in line


def test_a_json_line_has_bytes_and_seconds(running: tuple[str, Command]) -> None:
    form, started = running
    started.client.get(CONFIG, headers={"user-agent": "fields/1.0"})
    line = started.line_of("fields/1.0")
    if form == "text":
        assert re.search(rf" {len(FILES['config.json'])}B \d+\.\d+s ", line)
    else:
        fields = json.loads(line)
        assert (fields["bytes"], fields["seconds"] < 5) == (len(FILES["config.json"]), True)
        assert {"time", "code", "agent"} <= set(fields)


def test_no_token_is_ever_logged(running: tuple[str, Command]) -> None:
    _, started = running
    url = f"{CONFIG}?token={TOKEN}&access_token={TOKEN}"
    started.client.get(url, headers={**SECRETS, "user-agent": "secret/1.0"})
    started.client.get("/api/whoami-v2", headers=SECRETS)
    started.client.post("/api/repos/create", headers=SECRETS, json={"token": TOKEN})
    started.client.get(f"/nowhere?token={TOKEN}", headers={"user-agent": "secret/2.0"})
    assert started.line_of("secret/1.0")
    assert started.line_of("secret/2.0")
    assert TOKEN not in started.log.read_text()


def test_a_line_break_in_a_path_makes_no_second_line(running: tuple[str, Command]) -> None:
    _, started = running
    started.client.get("/a%0Aforged", headers={"user-agent": "broken/1.0"})
    assert "forged" in started.line_of("broken/1.0")
    assert not [line for line in started.log.read_text().splitlines() if line.startswith("forged")]


def test_the_operator_hears_at_start_what_is_not_visible(running: tuple[str, Command]) -> None:
    _, started = running
    log = " ".join(started.log.read_text().split())
    assert "1 repositories (the first is Org/Copied) in the managed cache have no record" in log
    assert "--source hf-cache:" in log


def test_the_operator_hears_where_it_listens(running: tuple[str, Command]) -> None:
    _, started = running
    assert str(started.client.base_url.port) in started.log.read_text()


class _Faulty(Folder):
    """A source with a bug."""

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        raise ZeroDivisionError("a detail that is nobody's business")


@pytest.fixture
def access() -> io.StringIO:
    """What the server of `faulty` writes of each request."""
    return io.StringIO()


@pytest.fixture
def faulty(tmp_path: Path, digests: Digests, serve: Serve, access: io.StringIO) -> httpx2.Client:
    """Its connections are closed after each answer, as the server does after a bug."""
    source = _Faulty(tmp_path, folders.MODEL, digests)
    client = serve(source, logs=Logs(AccessLog(access, "text")))
    client.headers["connection"] = "close"
    return client


def test_a_bug_is_a_500_without_its_details(faulty: httpx2.Client) -> None:
    answer = faulty.get(CONFIG)
    assert (answer.status_code, answer.json()["error"]) == (500, answer.headers["x-error-message"])
    assert "nobody's business" not in answer.text
    assert answer.headers["x-request-id"]


def test_a_bug_is_a_page_for_a_browser(faulty: httpx2.Client) -> None:
    answer = faulty.get(CONFIG, headers={"accept": "text/html,*/*;q=0.8"})
    assert answer.status_code == 500
    assert "nobody's business" not in answer.text
    assert answer.headers["x-error-message"] in answer.text
    assert answer.headers["x-request-id"]


def test_a_bug_is_logged_as_a_500(faulty: httpx2.Client, access: io.StringIO) -> None:
    faulty.get(CONFIG)
    faulty.get("/healthz")
    assert f"GET {CONFIG} 500 " in access.getvalue()


def test_a_traceback_has_the_id_of_its_request(
    faulty: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    request_id = faulty.get(CONFIG).headers["x-request-id"]
    faulty.get("/healthz")
    (record,) = [one for one in caplog.records if request_id in one.getMessage()]
    assert record.exc_info is not None


def test_a_bug_is_counted_as_a_500(faulty: httpx2.Client) -> None:
    faulty.get(CONFIG)
    numbers = _numbers(faulty)
    assert _sum(numbers, "hubmirror_requests_total", status="500") == 1
    assert _sum(numbers, "hubmirror_errors_total", code="500") == 1


# Metrics

Numbers = list[tuple[str, dict[str, str], float]]


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A server of two visible revisions, and of one that waits for a file."""
    folder = tmp_path_factory.mktemp("metered")
    hub, state = folder / "hub", State(folder / "state")
    folders.make_managed(hub)
    folders.make_managed(hub, Content({"a": b"a"}, OLDER))
    waiting = folders.make_managed(hub, Content({"a": b"a"}, COMMIT, Repo.parse("Org/Waits")))
    next((waiting / "blobs").iterdir()).unlink()
    with closing(Digests(state)) as digests:
        source = HfCache(hub, digests, managed=True, ttl_s=0)
        with serving(state, source) as client:
            yield client


def _numbers(client: httpx2.Client) -> Numbers:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return [(one.name, one.labels, one.value) for family in families for one in family.samples]


def _sum(numbers: Numbers, name: str, **labels: str) -> float:
    return sum(
        value
        for one, has, value in numbers
        if one == name and all(has.get(key) == label for key, label in labels.items())
    )


def _change(client: httpx2.Client, path: str, name: str, **labels: str) -> float:
    """By how much one GET of the path changes a number."""
    before = _sum(_numbers(client), name, **labels)
    client.get(path)
    return _sum(_numbers(client), name, **labels) - before


def test_requests_are_counted(metered: httpx2.Client) -> None:
    labels = {"method": "GET", "route": "resolve", "status": "200"}
    assert _change(metered, WHOLE, "hubmirror_requests_total", **labels) == 1


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_bytes_are_counted(metered: httpx2.Client, path: str) -> None:
    url = f"/Org/Model/resolve/{COMMIT}/{path}"
    sent = _change(metered, url, "hubmirror_sent_bytes_total", route="resolve")
    assert sent == len(FILES[path])


def test_latencies_are_counted(metered: httpx2.Client) -> None:
    name = "hubmirror_response_start_seconds"
    assert _change(metered, WHOLE, f"{name}_count", route="resolve") == 1
    assert _change(metered, WHOLE, f"{name}_bucket", route="resolve", le="+Inf") == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/Org/Other/resolve/main/a", "RepoNotFound"),
        ("/Org/Model/resolve/nope/a", "RevisionNotFound"),
        (f"/Org/Model/resolve/{COMMIT}/nope", "EntryNotFound"),
        ("/Org/Waits/resolve/main/a", "503"),
        ("/nope", "404"),
        ("/Org/a--b/resolve/main/a", "400"),
    ],
)
def test_errors_are_counted_by_code(metered: httpx2.Client, path: str, code: str) -> None:
    assert _change(metered, path, "hubmirror_errors_total", code=code) == 1


def test_revisions_are_counted(metered: httpx2.Client) -> None:
    """In the background: a scrape shows what was found."""
    deadline = time.monotonic() + 10
    while not (numbers := _revisions(metered)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (age,) = [value for name, _, value in numbers if name == "hubmirror_revisions_age_seconds"]
    assert 0 <= age < 10
    assert _sum(numbers, "hubmirror_revisions", state="visible") == 2
    assert _sum(numbers, "hubmirror_revisions", state="waiting") == 1


def _revisions(client: httpx2.Client) -> Numbers:
    return [one for one in _numbers(client) if one[0].startswith("hubmirror_revisions")]


def test_a_scrape_waits_for_no_look(tmp_path: Path, digests: Digests, state: State) -> None:
    class Slow(HfCache):
        def repos(self) -> list[Repo]:
            time.sleep(2)
            return super().repos()

    folders.make_managed(tmp_path / "hub")
    source = Slow(tmp_path / "hub", digests, managed=True)
    catalog = Catalog(source, state)
    started = time.monotonic()
    board = StatusBoard(source, catalog, tmp_path, None)
    body = Metrics(catalog, board).render()
    assert time.monotonic() - started < 1
    assert b"hubmirror_revisions{" not in body
    catalog.close()


def test_paths_of_clients_make_no_new_series(metered: httpx2.Client) -> None:
    metered.get("/Org/Unheard-Of/resolve/main/x")
    metered.request("BREW", "/coffee")
    text = metered.get("/metrics").text
    assert "Unheard-Of" not in text
    assert "BREW" not in text


# Health

SOURCES = ["managed:{0}", "hf-cache:{0}", "folder:{0}=Org/Model"]


@pytest.mark.parametrize("source", SOURCES)
def test_ready_while_every_source_is_there(tmp_path: Path, source: str) -> None:
    (tmp_path / "source").mkdir()
    with _open(tmp_path, source) as client:
        answer = client.get("/readyz")
    assert (answer.status_code, answer.text[:6]) == (200, "ready:")


@pytest.mark.parametrize("source", SOURCES[1:])
def test_not_ready_when_a_source_vanished(tmp_path: Path, source: str) -> None:
    (tmp_path / "source").mkdir()
    with _open(tmp_path, source) as client:
        (tmp_path / "source").rename(tmp_path / "gone")
        answer = client.get("/readyz")
        assert client.get("/healthz").text == "ok\n"
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text


@pytest.mark.parametrize("source", SOURCES[1:])
@pytest.mark.parametrize("path", ["/api/models", CONFIG, "/api/models/Org/Model"])
def test_a_source_that_vanished_is_an_outage_that_names_no_path(
    tmp_path: Path, source: str, path: str
) -> None:
    (tmp_path / "source").mkdir()
    with _open(tmp_path, source) as client:
        (tmp_path / "source").rename(tmp_path / "gone")
        answer = client.get(path)
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.headers["x-error-message"]


def test_metrics_outlive_a_source(tmp_path: Path) -> None:
    """They are wanted most when something is broken."""
    (tmp_path / "source").mkdir()
    with _open(tmp_path, "hf-cache:{0}") as client:
        (tmp_path / "source").rename(tmp_path / "gone")
        client.get(CONFIG)
        assert _sum(_numbers(client), "hubmirror_errors_total", code="503") == 1


@contextmanager
def _open(folder: Path, source: str) -> Iterator[httpx2.Client]:
    """A server of the source as the command line declares it; nothing is held in memory."""
    (folder / "data").mkdir()
    spec = SourceSpec.parse(source.format(folder / "source"))
    place = open_sources(folder / "data", None, [spec])
    with closing(place.digests), serving(place.state, *place.sources.sources) as client:
        yield client


# The token


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("gated")
    folders.make_managed(folder / "hub")
    state = State(folder / "state")
    with closing(Digests(state)) as digests:
        source = HfCache(folder / "hub", digests, managed=True, ttl_s=0)
        with serving(state, source, proxy=ProxySettings(signer=Signer(TOKEN))) as client:
            yield client


@pytest.mark.parametrize("path", [CONFIG, "/api/models", "/api/whoami-v2", "/", "/metrics", "/-/x"])
@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN}, {"authorization": "Bearer"}, {"authorization": "Bearer \xfc"},
    ],
    ids=["none", "wrong", "basic", "bare", "empty", "latin-1"],
)  # fmt: skip
def test_without_the_token_nothing_is_read(
    gated: httpx2.Client, headers: dict[str, str], path: str
) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = gated.get(path, headers=encoded)
    assert answer.status_code == 401
    assert "HF_TOKEN" in answer.headers["x-error-message"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
@pytest.mark.parametrize("path", [CONFIG, "/api/models", "/api/whoami-v2", "/metrics"])
def test_with_the_token_all_is_read(gated: httpx2.Client, path: str, scheme: str) -> None:
    answer = gated.get(path, headers={"authorization": f"{scheme} {TOKEN}"})
    assert answer.status_code == 200


def test_a_token_in_the_query_opens_nothing(gated: httpx2.Client) -> None:
    assert gated.get(f"{CONFIG}?token={TOKEN}").status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token(gated: httpx2.Client, path: str) -> None:
    assert gated.get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/healthz/../api/models", "//healthz", "/healthz%2F", "/healthz/x"]
)
def test_a_path_like_a_health_route_needs_the_token(gated: httpx2.Client, path: str) -> None:
    url = f"{gated.base_url}".rstrip("/") + path
    assert gated.get(url).status_code == 401


def test_the_token_opens_no_upload(gated: httpx2.Client) -> None:
    assert gated.post("/api/repos/create", json={}).status_code == 401
    assert gated.post("/api/repos/create", json={}, headers=SECRETS).status_code == 403


def test_an_answer_from_memory_needs_the_token_too(
    hub: Path, managed: HfCache, state: State
) -> None:
    folders.make_managed(hub)
    with run_server(
        create_app(managed, state, proxy=ProxySettings(signer=Signer(TOKEN)), ttl_s=60)
    ) as url:
        assert httpx2.get(url + CONFIG, headers=SECRETS).status_code == 200
        assert httpx2.get(url + CONFIG).status_code == 401
