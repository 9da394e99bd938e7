"""What is written down about requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mirror.sources.hf_cache import HfCache
from mirror.web.observe import Logs
from mirror.web.recorder import Recorder
from tests.conftest import Serve
from tests.folders import COMMIT, Content, make_managed

FILES = {**Content().files, "tiny-Q4_K_M.gguf": b"GGUF" + bytes(20)}


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


@pytest.fixture
def client(serve: Serve, managed: HfCache, hub: Path, lines: Path) -> httpx2.Client:
    make_managed(hub, Content(FILES))
    return serve(managed, logs=Logs(recorder=Recorder(lines)))


def written(lines: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.read_text().splitlines()]


@pytest.mark.parametrize(
    ("path", "revision", "paths"),
    [
        ("/org/model/resolve/main/config.json", "main", ["config.json"]),
        ("/Org/Model/raw/main/config.json", "main", ["config.json"]),
        (f"/api/resolve-cache/models/Org/Model/{COMMIT}/config.json", COMMIT, ["config.json"]),
        ("/api/models/Org/Model", "HEAD", []),
        ("/api/models/Org/Model/tree/main?recursive=true", "main", []),
        ("/v2/Org/Model/manifests/Q4_K_M", "HEAD", ["tiny-Q4_K_M.gguf"]),
    ],
)
def test_the_revision_and_the_files_are_written(
    client: httpx2.Client, lines: Path, path: str, revision: str, paths: list[str]
) -> None:
    assert client.get(path).status_code == 200
    assert written(lines) == [
        {
            "repo_type": "model",
            "repo_id": "Org/Model",
            "revision": revision,
            "commit_hash": COMMIT,
            "paths": paths,
            "status": 200,
        }
    ]


def test_the_files_of_paths_info_are_written(client: httpx2.Client, lines: Path) -> None:
    body = {"paths": ["config.json", "sub dir", "nope"]}
    client.post("/api/models/Org/Model/paths-info/main", json=body)
    assert written(lines)[0]["paths"] == ["config.json"]


def test_a_file_that_the_commit_lacks_is_absent(client: httpx2.Client, lines: Path) -> None:
    client.head("/Org/Model/resolve/main/nope.json")
    (line,) = written(lines)
    assert (line["status"], line["absent"], line["paths"]) == (404, True, ["nope.json"])


@pytest.mark.parametrize(
    ("path", "revision", "paths"),
    [
        ("/org/none/resolve/v1/config.json", "v1", ["config.json"]),
        ("/Org/Model/resolve/v1/a/b.json", "v1", ["a/b.json"]),
        ("/api/models/org/none", "HEAD", []),
        ("/api/models/org/none/revision/v1", "v1", []),
        ("/v2/org/none/manifests/Q4_K_M", "HEAD", []),
    ],
)
def test_what_is_missing_is_written(
    client: httpx2.Client, lines: Path, path: str, revision: str, paths: list[str]
) -> None:
    assert client.get(path).status_code == 404
    (line,) = written(lines)
    assert (line["revision"], line["commit_hash"], line["paths"]) == (revision, "", paths)
    assert not line["absent"]
    assert line["error"]


def test_a_question_is_written_once_and_no_token_is_written(
    client: httpx2.Client, lines: Path
) -> None:
    for _ in range(3):
        headers = {"authorization": "Bearer hf_secret"}
        client.get("/Org/Model/resolve/main/config.json?token=hf_secret", headers=headers)
    assert len(written(lines)) == 1
    assert "hf_secret" not in lines.read_text()


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/a--b",
        "/Org/Model/resolve/main/..%2Fx",
        "/api/models/Org/Model/discussions/1",
    ],
)
def test_malformed_and_unknown_questions_are_not_written(
    client: httpx2.Client, lines: Path, path: str
) -> None:
    assert client.get(path).status_code in (400, 404)
    assert written(lines) == []


def test_what_is_not_about_content_is_not_written(client: httpx2.Client, lines: Path) -> None:
    for path in ("/healthz", "/metrics", "/api/models", "/api/whoami-v2", "/-/identity"):
        assert client.get(path).status_code == 200
    assert written(lines) == []
