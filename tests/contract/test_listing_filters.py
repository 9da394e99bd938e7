"""Filters of the listings: what the mirror knows selects, and everything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError

from mirror.core.repo import Repo
from mirror.sources.hf_cache import HfCache
from tests import folders
from tests.conftest import Serve
from tests.folders import Content

CARD = b"---\nlanguage: [en]\ntask_ids: [language-modeling]\nlicense: mit\n---\n"


def weights(count: int) -> bytes:
    return folders.make_safetensors({"w": ("BF16", [count])})


@pytest.fixture
def client(hub: Path, managed: HfCache, serve: Serve) -> httpx2.Client:
    """Models of known and of unknown size, and a dataset."""
    models = {"Org/tiny": 900, "Org/small": 2_000_000, "Other/large": 7_000_000_000}
    for repo_id, count in models.items():
        content = Content({"model.safetensors": weights(count)}, repo=Repo.parse(repo_id))
        folders.make_managed(hub, content)
    folders.make_managed(hub, Content({"notes.txt": b""}, repo=Repo.parse("Org/unknown")))
    folders.make_managed(hub, Content({"README.md": CARD}, repo=Repo.parse("datasets/Org/data")))
    said = {"safetensors": {"parameters": {"F32": 3_000_000}, "total": 3_000_000}}
    content = Content({"notes.txt": b"x"}, repo=Repo.parse("Org/said"))
    folders.make_managed(hub, content, info=said)
    return serve(managed)


@pytest.fixture
def api(client: httpx2.Client) -> HfApi:
    return HfApi(endpoint=str(client.base_url).rstrip("/"), token=False)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("min:1M", {"Org/small", "Org/said", "Other/large"}),
        ("max:1k", {"Org/tiny"}),
        ("min:1M,max:2.5M", {"Org/small"}),
        ("min:6B,max:128B", {"Other/large"}),
        ("min:2T", set()),
    ],
)
def test_models_by_their_number_of_parameters(api: HfApi, asked: str, found: set[str]) -> None:
    assert {one.id for one in api.list_models(num_parameters=asked)} == found


def test_models_by_several_filters(api: HfApi) -> None:
    found = api.list_models(num_parameters="min:1M", author="org", search="SMALL", gated=False)
    assert [one.id for one in found] == ["Org/small"]


def test_this_mirror_has_no_gates(api: HfApi) -> None:
    assert list(api.list_models(gated=True)) == []
    assert len(list(api.list_models(gated=False))) == 5


def test_datasets_by_language_and_task(api: HfApi) -> None:
    assert [one.id for one in api.list_datasets(language="en")] == ["Org/data"]
    assert [one.id for one in api.list_datasets(task_ids="language-modeling")] == ["Org/data"]
    assert list(api.list_datasets(language="de")) == []


@pytest.mark.parametrize(
    "query",
    [
        "apps=vllm", "inference=warm", "inference_provider=all", "unknown=1", "sort=beauty",
        "direction=up", "gated=perhaps", "num_parameters=7B", "num_parameters=min:",
        "num_parameters=min:-1B", "num_parameters=min:1B;max:2B", f"num_parameters=min:{'9' * 400}",
        "limit=many", "limit=-1", f"limit={'9' * 400}", "cursor=eyJfaWQiOiI2MjEifQ==",
        "cursor=%00", "search[]=x", "filter[x]=y",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(client: httpx2.Client, query: str) -> None:
    answer = client.get(f"/api/models?{query}")
    assert answer.status_code == 400
    assert answer.headers["x-error-message"] == answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/datasets?num_parameters=min:1B", "/api/datasets?pipeline_tag=fill-mask",
        "/api/spaces?linked=true", "/api/spaces?models=gpt2", "/api/kernels?library=kernels",
    ],
)  # fmt: skip
def test_filters_of_another_type_are_refused(client: httpx2.Client, path: str) -> None:
    assert client.get(path).status_code == 400


def test_the_client_shows_why(api: HfApi) -> None:
    with pytest.raises(BadRequestError, match="does not know which applications run a model"):
        list(api.list_models(apps="ollama"))


# Files of weights


INDEX = {
    "metadata": {"total_size": 12},
    "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"},
}


def _sharded(**changes: bytes) -> Content:
    files = {
        "model.safetensors.index.json": json.dumps(INDEX).encode(),
        "model-1.safetensors": folders.make_safetensors({"a": ("F32", [2])}),
        "model-2.safetensors": folders.make_safetensors({"b": ("BF16", [2, 2])}),
    }
    names = {"index": "model.safetensors.index.json", "shard": "model-2.safetensors"}
    files |= {names[name]: body for name, body in changes.items()}
    return Content({path: body for path, body in files.items() if body}, repo=Repo.parse("Org/big"))


def test_the_headers_of_all_shards(api: HfApi, hub: Path) -> None:
    folders.make_managed(hub, _sharded())
    found = api.get_sharded_safetensors_metadata("Org/big")
    assert found.parameter_count == {"F32": 2, "BF16": 4}
    assert found.metadata == INDEX["metadata"]
    assert found.weight_map == INDEX["weight_map"]
    assert found == api.get_safetensors_metadata("Org/big")


@pytest.mark.parametrize(
    ("content", "path", "status", "code"),
    [
        (_sharded(), "nope.json", 404, "EntryNotFound"),
        (_sharded(shard=b""), "model.safetensors.index.json", 404, "EntryNotFound"),
        (_sharded(shard=b"short"), "model.safetensors.index.json", 400, None),
        (_sharded(shard=b"\xff" * 9), "model.safetensors.index.json", 400, None),
        (_sharded(shard=b"\2" + 7 * b"\0" + b"[]"), "model.safetensors.index.json", 400, None),
        (_sharded(index=b"[]"), "model.safetensors.index.json", 400, None),
        (_sharded(index=b'{"weight_map": {"a": "../x"}}'), "model.safetensors.index.json", 400,
         None),
        (_sharded(), "model-1.safetensors", 400, None),
    ],
)  # fmt: skip
def test_an_index_that_cannot_be_used(
    client: httpx2.Client, hub: Path, content: Content, path: str, status: int, code: str | None
) -> None:
    folders.make_managed(hub, content)
    answer = client.get(f"/api/models/Org/big/safetensors-metadata/{path}")
    assert (answer.status_code, answer.headers.get("x-error-code")) == (status, code)


def test_the_lfs_files(api: HfApi, hub: Path) -> None:
    content = _sharded()
    folders.make_managed(hub, content)
    found = {one.filename: (one.oid, one.size) for one in api.list_lfs_files("Org/big")}
    assert found == {
        path: (file.lfs_sha256, file.size)
        for path, file in content.entries.items()
        if file.lfs_sha256
    }


def test_the_viewer_of_datasets_is_refused_at_once(client: httpx2.Client) -> None:
    """datasets asks this host, if a wildcard of DNS leads it to the mirror."""
    headers = {"host": "datasets-server.mirror:8400"}
    for path in ("/info", "/parquet", "/splits", "/is-valid"):
        answer = client.get(f"{path}?dataset=Org/data&config=default", headers=headers)
        assert answer.status_code == 404
