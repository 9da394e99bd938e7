"""`/api/models`, `/api/datasets` and `/api/spaces`: search, filters, order and pages."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from tests import folders
from tests.conftest import Serve, serving
from tests.contract.conftest import Served
from tests.folders import COMMIT, OLDER, Content
from tests.servers import run_server
from tests.waiting import until

DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PLURALS = ["models", "datasets", "spaces"]
CARD = b"---\nlicense: mit\nlanguage: en\ntags: [tiny, Speech]\npipeline_tag: fill-mask\n---\n"
MODELS = {
    "Acme/Alpha": {"downloads": 5, "likes": 1, "lastModified": "2024-01-01T00:00:00.000Z"},
    "Acme/beta-speech": {"downloads": 9, "likes": 3, "lastModified": "2023-01-01T00:00:00.000Z"},
    "Other/Alphabet": {"downloads": 7, "likes": 2, "lastModified": "2025-01-01T00:00:00.000Z"},
    "gpt2": {"downloads": 1, "likes": 0, "lastModified": "2022-06-01T00:00:00.000Z"},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """Four models and a dataset. Only Acme/beta-speech has a card."""
    folder = tmp_path_factory.mktemp("listing")
    hub, state = folder / "hub", State(folder / "state")
    for repo_id, info in MODELS.items():
        files = {"config.json": b'{"model_type": "bert"}'}
        if "beta" in repo_id:
            files["README.md"] = CARD
        folders.make_managed(hub, Content(files, COMMIT, Repo.parse(repo_id)), info=info)
    folders.make_managed(hub, Content({"a.csv": b"1"}, COMMIT, Repo.parse("datasets/Acme/Data")))
    with closing(Digests(state)) as digests:
        source = HfCache(hub, digests, managed=True, ttl_s=0)
        with serving(state, source) as client:
            yield client


def _ids(client: httpx2.Client, query: str = "", plural: str = "models") -> list[str]:
    answer = client.get(f"/api/{plural}{query}")
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()]


def _row(client: httpx2.Client, query: str) -> dict[str, Any]:
    (row,) = [row for row in client.get(f"/api/models{query}").json() if "beta" in row["id"]]
    return dict(row)


def test_every_kind_of_folder_is_listed(served: Served) -> None:
    (row,) = served.client.get("/api/models").json()
    assert (row["id"], row["sha"]) == ("Org/Model", served.commit_hash)


def test_a_listing_holds_one_type(client: httpx2.Client) -> None:
    assert _ids(client) == list(MODELS)
    assert _ids(client, plural="datasets") == ["Acme/Data"]
    assert _ids(client, plural="spaces") == []


def test_a_row_has_what_clients_index(client: httpx2.Client) -> None:
    row = _row(client, "")
    assert (row["private"], row["gated"], row["modelId"]) == (False, False, "Acme/beta-speech")
    assert (row["downloads"], row["likes"]) == (9, 3)
    assert DATE.fullmatch(row["lastModified"])
    assert DATE.fullmatch(row["createdAt"])
    assert {"tiny", "license:mit"} <= set(row["tags"])


def test_a_row_is_short(client: httpx2.Client) -> None:
    assert not {"siblings", "cardData", "config"} & set(_row(client, ""))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?search=alpha", ["Acme/Alpha", "Other/Alphabet"]),
        ("?search=ALPHA", ["Acme/Alpha", "Other/Alphabet"]),
        ("?search=acme/a", ["Acme/Alpha"]),
        ("?search=nope", []),
        ("?author=Acme", ["Acme/Alpha", "Acme/beta-speech"]),
        ("?author=acme", ["Acme/Alpha", "Acme/beta-speech"]),
        ("?author=Acm", []),
        ("?author=Acme&search=speech", ["Acme/beta-speech"]),
        ("?filter=tiny", ["Acme/beta-speech"]),
        ("?filter=license:mit", ["Acme/beta-speech"]),
        ("?filter=tiny&filter=en", ["Acme/beta-speech"]),
        ("?filter=tiny,en", ["Acme/beta-speech"]),
        ("?filter=tiny&filter=nope", []),
        ("?filter=speech", ["Acme/beta-speech"]),
        ("?filter=bert", list(MODELS)),
        ("?filter=fill-mask", ["Acme/beta-speech"]),
        ("?pipeline_tag=fill-mask", ["Acme/beta-speech"]),
        ("?pipeline_tag=nope", []),
    ],
)
def test_a_listing_is_narrowed(client: httpx2.Client, query: str, found: list[str]) -> None:
    assert _ids(client, query) == found


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("?sort=downloads&direction=-1", [9, 7, 5, 1]),
        ("?sort=downloads", [9, 7, 5, 1]),
        ("?sort=downloads&direction=1", [1, 5, 7, 9]),
        ("?sort=likes&direction=-1", [9, 7, 5, 1]),
        ("?sort=lastModified&direction=-1", [7, 5, 9, 1]),
        ("?sort=last_modified&direction=-1", [7, 5, 9, 1]),
        ("?sort=createdAt", [5, 9, 7, 1]),
        ("?sort=trendingScore", [5, 9, 7, 1]),
    ],
)
def test_a_listing_is_sorted(client: httpx2.Client, query: str, order: list[int]) -> None:
    rows = client.get(f"/api/models{query}").json()
    assert [row["downloads"] for row in rows] == order


def test_pages_join_up(client: httpx2.Client) -> None:
    first = client.get("/api/models?limit=3&sort=downloads")
    second = client.get(first.links["next"]["url"])
    rows = [*first.json(), *second.json()]
    assert [row["downloads"] for row in rows] == [9, 7, 5, 1]
    assert (len(first.json()), "link" in second.headers) == (3, False)


def test_a_link_is_absolute_and_keeps_the_query(client: httpx2.Client) -> None:
    link = client.get("/api/models?limit=1&search=alpha&filter=bert").links["next"]["url"]
    assert link.startswith(f"{client.base_url}".rstrip("/") + "/api/models?")
    assert _ids(client, link.partition("/api/models")[2]) == ["Other/Alphabet"]


@pytest.mark.parametrize("query", ["?limit=500", "?limit=0"])
def test_one_page_holds_all(client: httpx2.Client, query: str) -> None:
    assert _ids(client, query) == list(MODELS)


@pytest.mark.parametrize("true", ["true", "True", "1"])
def test_full_rows_have_files_and_the_card(client: httpx2.Client, true: str) -> None:
    row = _row(client, f"?full={true}")
    assert {one["rfilename"] for one in row["siblings"]} == {"README.md", "config.json"}
    assert row["cardData"]["license"] == "mit"


@pytest.mark.parametrize(("name", "key"), [("cardData", "license"), ("config", "model_type")])
def test_one_more_fact_a_row(client: httpx2.Client, name: str, key: str) -> None:
    row = _row(client, f"?{name}=true")
    assert key in row[name]
    assert "siblings" not in row


@pytest.mark.parametrize("query", ["?expand=sha&expand=likes", "?expand[]=sha&expand[]=likes"])
def test_expanded_rows_hold_what_was_asked_for(client: httpx2.Client, query: str) -> None:
    row = _row(client, query)
    assert (row["sha"], row["likes"]) == (COMMIT, 3)
    assert not {"downloads", "tags", "lastModified"} & set(row)


@pytest.mark.parametrize("plural", PLURALS)
def test_an_empty_cache_gives_an_empty_list(managed: HfCache, serve: Serve, plural: str) -> None:
    assert _ids(serve(managed), plural=plural) == []


def test_an_empty_foreign_cache_gives_an_empty_list(foreign: HfCache, serve: Serve) -> None:
    assert _ids(serve(foreign)) == []


def test_a_download_that_failed_is_no_repository(hub: Path, foreign: HfCache, serve: Serve) -> None:
    """A foreign cache is served as far as it goes: nothing is on its way."""
    folders.write(hub / "models--Org--Model" / "blobs" / "a.incomplete", b"")
    folders.write(hub / "models--Org--Model" / "refs" / "main", COMMIT.encode())
    assert _ids(serve(foreign)) == []


def test_a_copied_cache_that_is_not_visible_says_so(
    hub: Path, managed: HfCache, serve: Serve
) -> None:
    folders.make_classic(hub)
    answer = serve(managed).get("/api/models")
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert "--source hf-cache:" in answer.headers["x-error-message"]
    assert str(hub) not in answer.text


def test_a_cache_that_only_waits_is_no_empty_list(
    hub: Path, managed: HfCache, serve: Serve
) -> None:
    folder = folders.make_managed(hub)
    next((folder / "blobs").iterdir()).unlink()
    client = serve(managed)
    assert client.get("/api/models").status_code == 503
    assert _ids(client, plural="datasets") == []


def test_what_waits_is_left_out_beside_what_is_complete(
    hub: Path, managed: HfCache, serve: Serve
) -> None:
    folders.make_managed(hub)
    waiting = folders.make_managed(hub, Content({"a": b"a"}, OLDER, Repo.parse("Org/Waits")))
    next((waiting / "blobs").iterdir()).unlink()
    assert _ids(serve(managed)) == ["Org/Model"]


def test_repositories_come_and_go_without_a_restart(
    hub: Path, managed: HfCache, serve: Serve
) -> None:
    client = serve(managed)
    folder = folders.make_managed(hub)
    assert _ids(client) == ["Org/Model"]
    folder.rename(folder.with_name("elsewhere"))
    assert _ids(client) == []


def test_one_id_in_several_sources_is_listed_once(tmp_path: Path, state: State) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    folders.make_managed(first)
    folders.make_classic(second, Content({"a": b"a"}, OLDER, Repo.parse("org/model")))
    with closing(Digests(state)) as digests:
        sources = [
            HfCache(first, digests, managed=True), HfCache(second, digests, managed=False),
        ]  # fmt: skip
        with serving(state, *sources) as client:
            assert _ids(client) == ["Org/Model"]


def test_a_long_first_look_uses_one_thread(tmp_path: Path, digests: Digests, state: State) -> None:
    """Many different listings wait for it, and other requests are answered meanwhile."""
    goes_on, looks = threading.Event(), []

    class Waiting(HfCache):
        def repos(self) -> list[Repo]:
            looks.append(time.monotonic())
            assert goes_on.wait(60)
            return super().repos()

    folders.make_managed(tmp_path / "hub")
    app = create_app(Waiting(tmp_path / "hub", digests, managed=True), state, ttl_s=60)
    with (
        run_server(app) as url,
        httpx2.Client(base_url=url, timeout=60, limits=httpx2.Limits(max_connections=80)) as client,
        ThreadPoolExecutor(64) as threads,
    ):
        # Requests with the same path wait for each other, so each path has other slashes.
        queries = [f"/api{'/' * n}models?limit={n}" for n in range(1, 41)]
        answers = [threads.submit(client.get, query) for query in queries]
        until(lambda: bool(looks), 10)
        for number in range(20):
            time.sleep(0.05)
            assert client.get(f"/api/models/Org/Model?n={number}", timeout=10).status_code == 200
        assert not any(answer.done() for answer in answers)
        goes_on.set()
        assert [len(answer.result().json()) for answer in answers] == [1] * len(queries)
    assert len(looks) == 1
