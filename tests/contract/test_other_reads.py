"""What clients of the hub ask beside files and repositories: empty lists, and refusals in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from mirror.core.repo import Repo
from mirror.core.tree import lfs_pointer
from mirror.sources.hf_cache import HfCache
from mirror.web.declined import ROUTES
from mirror.web.routing import Route
from tests import folders
from tests.conftest import Serve
from tests.folders import Content

POINTER = lfs_pointer(folders.entry("a.bin", b"weights").etag, 7)


@pytest.fixture
def client(hub: Path, managed: HfCache, serve: Serve) -> httpx2.Client:
    """A model and a space."""
    folders.make_managed(hub, Content({"a.bin": b"weights", "b.txt": b"text"}))
    folders.make_managed(hub, Content({"app.py": b""}, repo=Repo.parse("spaces/Org/Space")))
    return serve(managed)


@pytest.fixture
def api(client: httpx2.Client) -> HfApi:
    return HfApi(endpoint=str(client.base_url).rstrip("/"), token=False)


@pytest.mark.parametrize(("span", "part"), [("bytes=0-0", POINTER[:1]), ("bytes=8-", POINTER[8:])])
def test_a_part_of_a_pointer(client: httpx2.Client, span: str, part: bytes) -> None:
    """@huggingface/hub reads the size from the answer to a range."""
    answer = client.get("/Org/Model/raw/main/a.bin", headers={"range": span})
    assert (answer.status_code, answer.content) == (206, part)
    assert answer.headers["content-range"].endswith(f"/{len(POINTER)}")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_pointer_that_the_client_has(client: httpx2.Client) -> None:
    url = "/Org/Model/raw/main/a.bin"
    etag = client.head(url).headers["etag"]
    answer = client.get(url, headers={"if-none-match": f'"other", W/{etag}'})
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/Org/Absent", "/api/models/Org/Model/revision/nope", "/api/nope",
        "/Org/Model/resolve/main/nope", "/api/organizations/Org/overview", "/api/papers/2401.1",
        "/api/models/..%2f", "/api/spaces/semantic-search",
    ],
)  # fmt: skip
def test_a_message_has_no_full_stop_where_a_client_adds_one(
    client: httpx2.Client, path: str
) -> None:
    message = client.get(path).json()["error"]
    assert message
    assert not message.endswith(".")


def test_lists_that_are_empty(api: HfApi) -> None:
    assert list(api.list_repo_likers("Org/Model")) == []
    assert list(api.list_repo_likers("Org/Space", repo_type="space")) == []
    assert api.list_liked_repos("Org").total == 0
    assert list(api.list_collections()) == []
    assert list(api.list_daily_papers()) == []
    assert list(api.list_papers(query="attention")) == []
    assert list(api.list_user_repos()) == []
    assert list(api.list_user_repos("Org")) == []


def test_the_likers_of_an_absent_repository(client: httpx2.Client) -> None:
    answer = client.get("/api/models/Org/Absent/likers")
    assert answer.headers["x-error-code"] == "RepoNotFound"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda api: api.get_space_runtime("Org/Space"), "does not run them"),
        (lambda api: api.get_space_variables("Org/Space"), "does not run them"),
        (lambda api: list(api.search_spaces("draw a cat")), "does not search by meaning"),
        (lambda api: api.get_user_overview("somebody"), "does not know users"),
        (lambda api: list(api.list_organization_members("Org")), "does not know users"),
        (lambda api: api.get_collection("Org/some-1"), "has no collections"),
        (lambda api: api.paper_info("2401.00001"), "has no papers"),
        (lambda api: api.bucket_info("Org/bucket"), "has no buckets"),
        (lambda api: list(api.list_jobs(namespace="Org")), "runs no jobs"),
        (lambda api: api.list_webhooks(), "does not know users"),
    ],
    ids=[
        "runtime", "variables", "semantic-search", "user", "members", "collection", "paper",
        "bucket", "jobs", "webhooks",
    ],
)  # fmt: skip
def test_what_is_not_offered_is_said(
    api: HfApi, ask: Callable[[HfApi], object], words: str
) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        ask(api)
    assert caught.value.response.status_code == 404
    assert words in str(caught.value)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_declined_route_refuses_uploads(client: httpx2.Client, route: Route) -> None:
    for template in route.templates:
        path = template.replace("{type}", "models").replace("{repo}", "Org/Model")
        assert client.post(path.replace("{", "").replace("}", "").rstrip("*+")).status_code == 403


def test_a_space_of_that_name_is_not_the_search(client: httpx2.Client) -> None:
    """The name has one segment, and no repository of the hub has it."""
    assert client.get("/api/spaces/Org/semantic-search").headers["x-error-code"] == "RepoNotFound"
