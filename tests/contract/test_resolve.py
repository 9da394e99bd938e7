"""`/{repo}/resolve/{revision}/{path}` from every kind of folder."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Served
from tests.folders import FILES, entry

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("path", FILES)
def test_get_gives_the_bytes(served: Served, path: str) -> None:
    quoted = path.replace("%", "%25").replace("#", "%23").replace("?", "%3F")
    answer = served.client.get(f"/Org/Model/resolve/main/{quoted}")
    assert (answer.status_code, answer.content) == (200, FILES[path])


def test_head_of_a_regular_file(served: Served) -> None:
    headers = served.client.head("/Org/Model/resolve/main/config.json").headers
    assert headers["x-repo-commit"] == served.commit_hash
    assert headers["etag"] == f'"{entry("config.json", FILES["config.json"]).blob_id}"'
    assert headers["content-length"] == str(len(FILES["config.json"]))
    assert headers["accept-ranges"] == "bytes"
    assert "x-linked-etag" not in headers


def test_head_of_an_lfs_file(served: Served) -> None:
    headers = served.client.head(f"/Org/Model/resolve/main/{WEIGHTS}").headers
    sha256 = entry(WEIGHTS, FILES[WEIGHTS]).lfs_sha256
    assert headers["etag"] == headers["x-linked-etag"] == f'"{sha256}"'
    assert headers["content-length"] == headers["x-linked-size"] == str(len(FILES[WEIGHTS]))


def test_no_hint_of_xet(served: Served) -> None:
    answer = served.client.head(f"/Org/Model/resolve/main/{WEIGHTS}")
    assert not [name for name in answer.headers if "xet" in name]
    assert "link" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=319990-", 319990, 319999),
        ("bytes=-5", 319995, 319999),
        ("bytes=-999999", 0, 319999),
        ("bytes=0-320000", 0, 319999),
        ("bytes=5-300000", 5, 300000),
    ],
)
def test_a_range(served: Served, asked: str, first: int, last: int) -> None:
    answer = served.client.get(f"/Org/Model/resolve/main/{WEIGHTS}", headers={"range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/320000"
    assert answer.content == FILES[WEIGHTS][first : last + 1]


@pytest.mark.parametrize("asked", ["bytes=320000-", "bytes=999999-1000000", "bytes=-0"])
def test_a_range_past_the_end(served: Served, asked: str) -> None:
    answer = served.client.get(f"/Org/Model/resolve/main/{WEIGHTS}", headers={"range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */320000"
    assert answer.headers["x-repo-commit"] == served.commit_hash


@pytest.mark.parametrize(
    "asked", ["items=0-1", "bytes=abc", "bytes=", "bytes=5-2", "bytes=0-1,4-5"]
)
def test_a_garbage_range_gives_the_whole_file(served: Served, asked: str) -> None:
    answer = served.client.get("/Org/Model/resolve/main/config.json", headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, FILES["config.json"])


def test_a_range_of_an_empty_file(served: Served) -> None:
    answer = served.client.get("/Org/Model/resolve/main/empty.txt", headers={"range": "bytes=0-0"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-range"] == "bytes */0"
    assert answer.headers["content-length"] == "0"


def test_a_file_that_the_client_has(served: Served) -> None:
    etag = served.client.head("/Org/Model/resolve/main/config.json").headers["etag"]
    answer = served.client.get(
        "/Org/Model/resolve/main/config.json", headers={"if-none-match": etag}
    )
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize("revision", ["main", "HEAD", "commit", "short", "refs%2Fheads%2Fmain"])
def test_a_revision_in_any_form(served: Served, revision: str) -> None:
    forms = {"commit": served.commit_hash, "short": served.commit_hash[:7]}
    answer = served.client.head(f"/Org/Model/resolve/{forms.get(revision, revision)}/config.json")
    assert answer.headers["x-repo-commit"] == served.commit_hash


@pytest.mark.parametrize("name", ["org/model", "ORG/MODEL", "Org/Model"])
def test_repo_ids_match_without_regard_to_case(served: Served, name: str) -> None:
    assert served.client.get(f"/{name}/resolve/main/config.json").content == FILES["config.json"]


def test_an_unknown_repo(served: Served) -> None:
    answer = served.client.get("/Org/Other/resolve/main/config.json")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    assert "Org/Other is not in this mirror" in answer.headers["x-error-message"]


def test_an_unknown_revision(served: Served) -> None:
    answer = served.client.get("/Org/Model/resolve/nope/config.json")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RevisionNotFound")
    assert "x-repo-commit" not in answer.headers


def test_an_unknown_file(served: Served) -> None:
    """Only where the whole tree is known does the answer promise that the file is absent."""
    answer = served.client.head("/Org/Model/resolve/main/nope.json")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "EntryNotFound")
    knows = served.kind in ("managed", "managed-without-links", "plain")
    assert ("x-repo-commit" in answer.headers) == knows
