"""The hub's JSON about a repository, and the small routes beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.core.tree import lfs_pointer
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from tests import folders
from tests.conftest import Serve, serving
from tests.contract.conftest import Served
from tests.folders import COMMIT, FILES, OLDER, Content, entry
from tests.servers import run_server

API = "/api/models/Org/Model"
WEIGHTS = "model.safetensors"
ODD = "sub dir/deep/\u00fcn\u00ef#100%+?.txt"
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
OID = re.compile(r"[0-9a-f]{40}")
REFUSAL = "This server is a read-only mirror; uploads are disabled"
TRUE = ["true", "True", "1"]

DATA = Repo.parse("datasets/Org/Data")
SPACE = Repo.parse("spaces/Org/Space")
PARQUET = {"default/train/0000.parquet": b"PAR1", "default/test/a #1.parquet": b"PAR1 test"}


@pytest.fixture(params=["classic", "managed"], scope="module")
def shelf(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    """A cache with a dataset, a space and a bare id, refs of all sorts, and words of upstream."""
    folder = tmp_path_factory.mktemp("shelf")
    hub, state = folder / "hub", State(folder / "state")
    contents = {
        "main": Content({"config.json": b"{}"}, COMMIT, Repo.parse("gpt2")),
        "refs/pr/1": Content({"config.json": b"[]"}, OLDER, Repo.parse("gpt2")),
    }
    for repo in (DATA, SPACE):
        contents[f"main {repo}"] = Content({"a/b.txt": b"text"}, COMMIT, repo)
    contents[f"refs/convert/parquet {DATA}"] = Content(PARQUET, OLDER, DATA)
    for name, content in contents.items():
        ref = name.partition(" ")[0]
        if request.param == "classic":
            folders.make_classic(hub, content, ref)
        else:
            full = "refs/heads/main" if ref == "main" else ref
            folders.make_managed(hub, content, refs=(full,))
    with closing(Digests(state)) as digests:
        source = HfCache(hub, digests, managed=request.param == "managed", ttl_s=0)
        with serving(state, source) as client:
            yield client


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A pulled model, with what the real hub said of it and of Xet."""
    folder = tmp_path_factory.mktemp("upstream")
    content = Content()
    files = {path: replace(file, xet_hash=64 * "b") for path, file in content.entries.items()}
    info = {
        "id": "someone/else", "downloads": 7, "likes": 3, "gated": "auto", "xetEnabled": True,
        "lastModified": "2024-05-06T07:08:09.000Z",
        "siblings": [{"rfilename": "never-pulled.bin"}], "widgetData": [{"xetHash": "c"}],
    }  # fmt: skip
    refs = ("refs/heads/main", "refs/tags/v1", "refs/pr/1")
    folders.make_managed(folder / "hub", content, files=files, info=info, refs=refs)
    state = State(folder / "state")
    with closing(Digests(state)) as digests:
        source = HfCache(folder / "hub", digests, managed=True, ttl_s=0)
        with serving(state, source) as client:
            yield client


def _json(client: httpx2.Client, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _pages(client: httpx2.Client, path: str) -> list[list[Any]]:
    """The pages from `path` on, by following the Links."""
    pages, url = [], path
    while url:
        answer = client.get(url)
        pages.append(answer.json())
        url = answer.links.get("next", {}).get("url", "")
    return pages


def _by_path(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by path, without what a plain folder has beside the content."""
    return {row["path"]: row for row in rows if row["path"] != ".gitattributes"}


def _row(path: str) -> dict[str, Any]:
    """The row of a file in `/tree`, by the hub's rules."""
    file = entry(path, FILES[path])
    row = {"type": "file", "oid": file.blob_id, "size": file.size, "path": path}
    if file.lfs_sha256:
        pointer = lfs_pointer(file.lfs_sha256, file.size)
        row["lfs"] = {"oid": file.lfs_sha256, "size": file.size, "pointerSize": len(pointer)}
    return row


def _declined(answer: httpx2.Response) -> bool:
    """Whether the answer is the clean 404 of a route that a mirror does not offer."""
    return (
        answer.status_code == 404
        and "x-error-code" not in answer.headers
        and answer.headers.get("x-error-message") == answer.json()["error"]
    )


# Info


def test_info_names_the_repository(served: Served) -> None:
    body = _json(served.client, API)
    assert (body["id"], body["modelId"], body["author"]) == ("Org/Model", "Org/Model", "Org")
    assert (body["private"], body["gated"], body["disabled"]) == (False, False, False)
    assert body["_id"]


def test_info_has_its_counts(served: Served) -> None:
    body = _json(served.client, f"{API}?blobs=true")
    assert (body["downloads"], body["likes"]) == (0, 0)
    assert body["usedStorage"] == sum(row["size"] for row in body["siblings"])


def test_info_lists_every_file_by_name_alone(served: Served) -> None:
    siblings = _json(served.client, API)["siblings"]
    assert {row["rfilename"] for row in siblings} - {".gitattributes"} == set(FILES)
    assert {key for row in siblings for key in row} == {"rfilename"}


@pytest.mark.parametrize("true", TRUE)
def test_info_with_blobs_has_ids_and_sizes(served: Served, true: str) -> None:
    siblings = _json(served.client, f"{API}?blobs={true}")["siblings"]
    rows = {row["rfilename"]: row for row in siblings}
    config, weights = (entry(path, FILES[path]) for path in ("config.json", WEIGHTS))
    assert rows["config.json"] == {
        "rfilename": "config.json", "size": config.size, "blobId": config.blob_id,
    }  # fmt: skip
    assert rows[WEIGHTS]["lfs"] == {
        "sha256": weights.lfs_sha256, "size": 320_000, "pointerSize": 131,
    }  # fmt: skip


def test_info_tells_what_the_files_tell(served: Served) -> None:
    body = _json(served.client, API)
    assert body["cardData"] == {"license": "mit", "language": ["en"], "tags": ["tiny"]}
    assert {"transformers", "llama", "tiny", "en", "license:mit"} <= set(body["tags"])
    assert body["config"] == {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    assert (body["library_name"], body["pipeline_tag"]) == ("transformers", "text-generation")


@pytest.mark.parametrize("name", ["lastModified", "createdAt"])
def test_info_has_dates_in_the_one_form(served: Served, name: str) -> None:
    assert DATE.fullmatch(_json(served.client, API)[name])


@pytest.mark.parametrize("revision", ["main", "HEAD", "commit", "short", "refs%2Fheads%2Fmain"])
def test_info_echoes_the_commit(served: Served, revision: str) -> None:
    forms = {"commit": served.commit_hash, "short": served.commit_hash[:7]}
    body = _json(served.client, f"{API}/revision/{forms.get(revision, revision)}")
    assert body["sha"] == served.commit_hash


@pytest.mark.parametrize(
    "query", ["expand=sha&expand=tags", "expand[]=sha&expand[]=tags", "expand=sha,tags"]
)
def test_expand_gives_what_was_asked_for(served: Served, query: str) -> None:
    body = _json(served.client, f"{API}?{query}")
    assert set(body) == {"_id", "id", "sha", "tags"}


def test_expand_knows_siblings(served: Served) -> None:
    siblings = _json(served.client, f"{API}?expand=siblings")["siblings"]
    assert {row["rfilename"] for row in siblings} - {".gitattributes"} == set(FILES)


def test_expand_passes_over_unknown_properties(served: Served) -> None:
    answer = served.client.get(f"{API}?expand=nonsense&expand=xetEnabled&expand=sha")
    assert answer.status_code == 200
    assert not {"nonsense", "xetEnabled"} & set(answer.json())


def test_info_of_an_unknown_revision(served: Served) -> None:
    answer = served.client.get(f"{API}/revision/nope")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RevisionNotFound")
    assert answer.json()["error"] == answer.headers["x-error-message"]


def test_what_upstream_said_outranks_what_files_say(upstream: httpx2.Client) -> None:
    body = _json(upstream, API)
    assert (body["downloads"], body["likes"]) == (7, 3)
    assert body["lastModified"] == "2024-05-06T07:08:09.000Z"


def test_what_is_true_of_the_mirror_alone_outranks_upstream(upstream: httpx2.Client) -> None:
    body = _json(upstream, API)
    assert (body["id"], body["sha"], body["gated"]) == ("Org/Model", COMMIT, False)
    assert {row["rfilename"] for row in body["siblings"]} == set(FILES)


@pytest.mark.parametrize(
    "path",
    [
        f"{API}?blobs=true",
        f"{API}?expand=xetEnabled&expand=widgetData",
        f"{API}/tree/main?recursive=true&expand=true",
        "/api/models?full=true",
    ],
)
def test_no_hint_of_xet(upstream: httpx2.Client, path: str) -> None:
    assert "xet" not in upstream.get(path).text.lower()


# Tree


def test_tree_shows_one_folder(served: Served) -> None:
    rows = _by_path(_json(served.client, f"{API}/tree/main"))
    assert set(rows) == {"README.md", "config.json", "empty.txt", WEIGHTS, "sub dir"}


@pytest.mark.parametrize("path", ["config.json", "empty.txt", WEIGHTS, ODD])
def test_tree_row_of_a_file(served: Served, path: str) -> None:
    rows = _by_path(_json(served.client, f"{API}/tree/main?recursive=true"))
    assert rows[path] == _row(path)


def test_tree_row_of_a_folder(served: Served) -> None:
    row = _by_path(_json(served.client, f"{API}/tree/main"))["sub dir"]
    assert OID.fullmatch(row.pop("oid"))
    assert row == {"type": "directory", "size": 0, "path": "sub dir"}


@pytest.mark.parametrize("true", TRUE)
def test_a_recursive_tree_has_files_and_folders(served: Served, true: str) -> None:
    rows = _by_path(_json(served.client, f"{API}/tree/main?recursive={true}"))
    assert set(rows) == {*FILES, "sub dir", "sub dir/deep"}


@pytest.mark.parametrize("folder", ["sub%20dir%2Fdeep", "sub%20dir/deep", "sub%20dir/deep/"])
def test_tree_of_a_sub_folder(served: Served, folder: str) -> None:
    rows = _json(served.client, f"{API}/tree/main/{folder}")
    assert [row["path"] for row in rows] == [ODD]


@pytest.mark.parametrize("path", ["config.json", "nope", "sub%20dir/nope", "config.json/x"])
def test_tree_of_what_is_no_folder_is_entry_not_found(served: Served, path: str) -> None:
    answer = served.client.get(f"{API}/tree/main/{path}")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "EntryNotFound")


def test_tree_promises_only_what_the_folder_knows(served: Served) -> None:
    """As for files: a partial cache cannot know which folders upstream has."""
    answer = served.client.get(f"{API}/tree/main/nope")
    knows = served.kind in ("managed", "managed-without-links", "plain")
    assert ("x-repo-commit" in answer.headers) == knows


@pytest.mark.parametrize("true", TRUE)
def test_an_expanded_tree_names_the_last_commit(served: Served, true: str) -> None:
    rows = _by_path(_json(served.client, f"{API}/tree/main?recursive=1&expand={true}"))
    commit = rows[ODD]["lastCommit"]
    assert (commit["id"], bool(commit["title"])) == (served.commit_hash, True)
    assert DATE.fullmatch(commit["date"])
    assert {row["lastCommit"]["id"] for row in rows.values()} == {served.commit_hash}


def test_an_expanded_tree_says_nothing_of_security(served: Served) -> None:
    """Half a `securityFileStatus` is a KeyError in clients."""
    assert "securityFileStatus" not in served.client.get(f"{API}/tree/main?expand=true").text


def test_tree_pages_join_up(served: Served) -> None:
    pages = _pages(served.client, f"{API}/tree/main?recursive=true&expand=true&limit=2")
    whole = _json(served.client, f"{API}/tree/main?recursive=true&expand=true")
    assert [row for page in pages for row in page] == whole
    assert {len(page) for page in pages[:-1]} == {2}


def test_a_link_is_absolute(served: Served) -> None:
    link = served.client.get(f"{API}/tree/main?limit=1").links["next"]
    assert link["url"].startswith(f"{served.client.base_url}".rstrip("/") + API)
    assert link["rel"] == "next"


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "9" * 5000])
def test_a_limit_of_nonsense_is_passed_over(served: Served, limit: str) -> None:
    answer = served.client.get(f"{API}/tree/main?limit={limit}")
    assert answer.status_code == 200
    assert "link" not in answer.headers


# Paths info


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"paths": ["config.json", ODD, "nope", "sub dir"], "expand": "false"}},
        {"json": {"paths": ["config.json", ODD, "nope", "sub dir"], "expand": False}},
    ],
    ids=["form", "json"],
)
def test_paths_info_leaves_out_what_is_absent(served: Served, body: dict[str, Any]) -> None:
    answer = served.client.post(f"{API}/paths-info/main", **body)
    rows = {row["path"]: row for row in answer.json()}
    assert set(rows) == {"config.json", ODD, "sub dir"}
    assert rows[ODD] == _row(ODD)
    assert rows["sub dir"]["type"] == "directory"


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"paths": WEIGHTS, "expand": "True"}},
        {"data": {"paths": WEIGHTS, "expand": "true"}},
        {"json": {"paths": [WEIGHTS], "expand": True}},
    ],
    ids=["form-True", "form-true", "json"],
)
def test_paths_info_expands(served: Served, body: dict[str, Any]) -> None:
    (row,) = served.client.post(f"{API}/paths-info/main", **body).json()
    assert row["lastCommit"]["id"] == served.commit_hash
    assert row["lfs"]["oid"] == entry(WEIGHTS, FILES[WEIGHTS]).lfs_sha256


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"paths": 5}', b"\xff"])
def test_paths_info_of_a_broken_body(served: Served, body: bytes) -> None:
    answer = served.client.post(
        f"{API}/paths-info/main", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert "body" in answer.headers["x-error-message"]


def test_paths_info_gives_each_path_once(served: Served) -> None:
    """A small body cannot ask for a huge answer."""
    answer = served.client.post(
        f"{API}/paths-info/main", json={"paths": ["config.json"] * 1000, "expand": False}
    )
    assert [row["path"] for row in answer.json()] == ["config.json"]


# Refs, commits and the small routes of a repository


def test_refs_name_the_branch(served: Served) -> None:
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": served.commit_hash}
    body = _json(served.client, f"{API}/refs")
    assert body == {"branches": [main], "tags": [], "converts": []}


@pytest.mark.parametrize("true", TRUE)
def test_refs_have_pull_requests_when_asked(served: Served, true: str) -> None:
    body = _json(served.client, f"{API}/refs?include_prs={true}")
    assert body["pullRequests"] == []


def test_refs_of_every_sort(upstream: httpx2.Client) -> None:
    body = _json(upstream, f"{API}/refs?include_prs=1")
    assert body["tags"] == [{"name": "v1", "ref": "refs/tags/v1", "targetCommit": COMMIT}]
    assert body["pullRequests"] == [{"name": "1", "ref": "refs/pr/1", "targetCommit": COMMIT}]


def test_refs_of_a_converted_dataset(shelf: httpx2.Client) -> None:
    (row,) = _json(shelf, "/api/datasets/Org/Data/refs")["converts"]
    assert row == {"name": "parquet", "ref": "refs/convert/parquet", "targetCommit": OLDER}


def test_commits_are_the_one_of_the_snapshot(served: Served) -> None:
    answer = served.client.get(f"{API}/commits/main?limit=100&expand[]=formatted")
    (commit,) = answer.json()
    assert commit["id"] == served.commit_hash
    assert {"title", "message", "date"} <= set(commit)
    assert commit["authors"][0]["user"]
    assert answer.headers["x-total-count"] == "1"


def test_commits_end_after_the_first_page(served: Served) -> None:
    assert _json(served.client, f"{API}/commits/main?p=1") == []


@pytest.mark.parametrize(("path", "size"), [("sub%20dir", 9), (WEIGHTS, 320_000), ("empty.txt", 0)])
def test_treesize(served: Served, path: str, size: int) -> None:
    assert _json(served.client, f"{API}/treesize/main/{path}")["size"] == size


def test_treesize_of_what_is_absent(served: Served) -> None:
    answer = served.client.get(f"{API}/treesize/main/nope")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "EntryNotFound")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("auth-check", {}),
        ("discussions?p=0", {"discussions": [], "count": 0, "start": 0}),
    ],
)
def test_small_answers_about_a_repository(served: Served, route: str, body: object) -> None:
    assert _json(served.client, f"{API}/{route}") == body


@pytest.mark.parametrize(
    "route", ["", "/revision/main", "/tree/main", "/refs", "/commits/main", "/auth-check"]
)
def test_an_unknown_repository(served: Served, route: str) -> None:
    answer = served.client.get(f"/api/models/Org/Other{route}")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    assert "Org/Other is not in this mirror" in answer.headers["x-error-message"]


def test_another_type_is_another_repository(served: Served) -> None:
    answer = served.client.get("/api/datasets/Org/Model")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")


# Raw, resolve-cache and the forms of a path


def test_raw_gives_the_pointer_of_an_lfs_file(served: Served) -> None:
    answer = served.client.get(f"/Org/Model/raw/main/{WEIGHTS}")
    file = entry(WEIGHTS, FILES[WEIGHTS])
    assert answer.content == lfs_pointer(str(file.lfs_sha256), file.size)
    assert answer.headers["etag"] == f'"{file.blob_id}"'
    assert answer.headers["x-repo-commit"] == served.commit_hash


def test_raw_gives_the_bytes_of_a_regular_file(served: Served) -> None:
    assert served.client.get("/Org/Model/raw/main/config.json").content == FILES["config.json"]


@pytest.mark.parametrize(("path", "status"), [(WEIGHTS, 200), ("config.json", 200), ("x", 404)])
def test_raw_answers_to_head(served: Served, path: str, status: int) -> None:
    answer = served.client.head(f"/Org/Model/raw/main/{path}")
    assert (answer.status_code, answer.content) == (status, b"")


def test_resolve_cache_is_resolve(served: Served) -> None:
    answer = served.client.get(
        f"/api/resolve-cache/models/Org/Model/{served.commit_hash}/sub%20dir%2Fdeep%2F"
        "%C3%BCn%C3%AF%23100%25%2B%3F.txt"
    )
    assert answer.content == FILES[ODD]
    assert answer.headers["x-repo-commit"] == served.commit_hash


@pytest.mark.parametrize(
    "path",
    [
        "//Org/Model/resolve/main/config.json",
        "/Org//Model/resolve//main//config.json",
        "/Org/Model/resolve/refs/heads/main/config.json",
        "/Org/Model/resolve/main/config.json?download=true",
        "/Org/Model/resolve/main/config.json?noContentDisposition=1",
        "/Org%2FModel/resolve/main/config.json",
    ],
)
def test_a_path_in_another_form(served: Served, path: str) -> None:
    url = f"{served.client.base_url}".rstrip("/") + path
    assert served.client.get(url).content == FILES["config.json"]


def test_a_path_of_one_encoded_segment(served: Served) -> None:
    path = "sub%20dir%2Fdeep%2F%C3%BCn%C3%AF%23100%25%2B%3F.txt"
    assert served.client.get(f"/Org/Model/resolve/main/{path}").content == FILES[ODD]


def test_a_path_is_decoded_once(served: Served) -> None:
    answer = served.client.get("/Org/Model/resolve/main/sub%2520dir/deep")
    assert answer.headers["x-error-message"].startswith("Entry not found: sub%20dir/deep")


@pytest.mark.parametrize(
    ("version", "status"), [(entry(WEIGHTS, FILES[WEIGHTS]).etag, 206), ("another", 200)]
)
def test_a_range_of_another_version_is_the_whole_file(
    served: Served, version: str, status: int
) -> None:
    """A browser goes on with a download only where the file is still the same (If-Range)."""
    headers = {"range": "bytes=5-9", "if-range": f'"{version}"'}
    answer = served.client.get(f"/Org/Model/resolve/main/{WEIGHTS}", headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("revision", ["refs%2Fpr%2F1", "refs/pr/1", OLDER])
def test_a_pull_request_is_a_revision(shelf: httpx2.Client, revision: str) -> None:
    answer = shelf.get(f"/gpt2/resolve/{revision}/config.json")
    assert (answer.content, answer.headers["x-repo-commit"]) == (b"[]", OLDER)


def test_a_tree_at_a_decoded_revision(served: Served) -> None:
    rows = _json(served.client, f"{API}/tree/refs/heads/main/sub%20dir/deep")
    assert [row["path"] for row in rows] == [ODD]


# Types and bare ids


@pytest.mark.parametrize("repo", [DATA, SPACE], ids=str)
def test_files_of_every_type(shelf: httpx2.Client, repo: Repo) -> None:
    answer = shelf.get(f"/{repo}/resolve/main/a/b.txt")
    assert (answer.content, answer.headers["x-repo-commit"]) == (b"text", COMMIT)


@pytest.mark.parametrize("repo", [DATA, SPACE], ids=str)
def test_info_of_every_type(shelf: httpx2.Client, repo: Repo) -> None:
    body = _json(shelf, f"/api/{repo}")
    assert (body["id"], body["sha"]) == (repo.repo_id, COMMIT)
    assert not {"modelId", "library_name", "config", "safetensors"} & set(body)


def test_info_of_a_space_has_its_stage(shelf: httpx2.Client) -> None:
    body = _json(shelf, "/api/spaces/Org/Space")
    assert body["sdk"]
    assert body["runtime"]["stage"]


@pytest.mark.parametrize(
    "path", ["", "/revision/main", "/revision/HEAD", f"/revision/{COMMIT}", "/revision/c0ffee"]
)
def test_a_bare_id(shelf: httpx2.Client, path: str) -> None:
    body = _json(shelf, f"/api/models/gpt2{path}")
    assert (body["id"], body["sha"]) == ("gpt2", COMMIT)
    assert not body.get("author")


def test_files_of_a_bare_id(shelf: httpx2.Client) -> None:
    assert shelf.get("/gpt2/resolve/main/config.json").content == b"{}"
    assert shelf.get("/GPT2/raw/main/config.json").content == b"{}"
    (row,) = _json(shelf, "/api/models/gpt2/tree/main")
    assert row["path"] == "config.json"


# The parquet export


def test_parquet_urls_lead_to_the_files(shelf: httpx2.Client) -> None:
    body = _json(shelf, "/api/datasets/Org/Data/parquet/default/train")
    assert [shelf.get(url).content for url in body] == [b"PAR1"]


def test_parquet_urls_are_encoded(shelf: httpx2.Client) -> None:
    (url,) = _json(shelf, "/api/datasets/Org/Data/parquet/default/test")
    assert url.endswith("/resolve/refs%2Fconvert%2Fparquet/default/test/a%20%231.parquet")


def test_parquet_of_the_whole_dataset(shelf: httpx2.Client) -> None:
    body = _json(shelf, "/api/datasets/Org/Data/parquet")
    assert set(body["default"]) == {"train", "test"}


def test_parquet_without_an_export(shelf: httpx2.Client) -> None:
    assert shelf.get("/api/datasets/Org/Data/parquet/default/nope").status_code == 404
    assert shelf.get("/api/models/gpt2/parquet/default").status_code == 404


# Identity and stubs


def test_whoami_satisfies_login(shelf: httpx2.Client) -> None:
    body = _json(shelf, "/api/whoami-v2")
    assert (body["type"], body["orgs"]) == ("user", [])
    assert body["name"]
    assert body["auth"]["accessToken"]["role"] == "read"
    assert body["auth"]["accessToken"]["displayName"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/agent-harnesses", {"standardEnvVars": [], "harnesses": {}}),
        ("/api/models-tags-by-type", {}),
        ("/api/datasets-tags-by-type", {}),
    ],
)
def test_stubs(shelf: httpx2.Client, path: str, body: object) -> None:
    assert _json(shelf, path) == body


def test_telemetry_is_taken_and_dropped(shelf: httpx2.Client) -> None:
    assert shelf.head("/api/telemetry/gradio/initiated").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/-/", "/-/anything", "/nope", "/Org/Model", "/Org/Model/tree/main", "/datasets/Org/Data",
        "/api", "/api/nope", "/api/quicksearch", "/api/trending", "/api/collections/a-1",
        "/api/papers/2401.1", "/api/users/Org/overview", "/api/organizations/Org/members",
        "/api/settings/webhooks", "/api/spaces/Org/Space/runtime", "/api/jobs/Org",
        "/api/models/gpt2/compare/a..b", "/api/datasets/Org/Data/croissant",
        "/api/models/gpt2/xet-write-token/main",
        "/oauth/device", "/gpt2/info/main", "/v2/gpt2/nope", "/a%0Ab",
    ],
)  # fmt: skip
def test_other_routes_are_declined(shelf: httpx2.Client, path: str) -> None:
    assert _declined(shelf.get(path))


@pytest.mark.parametrize(
    "path",
    ["/api/buckets/huggingface/skills/paths-info"],
)
def test_reads_by_post_that_are_not_offered(shelf: httpx2.Client, path: str) -> None:
    assert _declined(shelf.post(path, json={"paths": ["a"]}))


# Uploads


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/repos/create"),
        ("POST", "/api/repos/move"),
        ("DELETE", "/api/repos/delete"),
        ("POST", "/api/validate-yaml"),
        ("POST", "/api/models/gpt2/preupload/main"),
        ("POST", "/api/models/gpt2/commit/main?create_pr=1"),
        ("POST", "/api/datasets/Org/Data/commit/main"),
        ("POST", "/api/models/gpt2/branch/new"),
        ("DELETE", "/api/models/gpt2/branch/new"),
        ("POST", "/api/models/gpt2/tag/main"),
        ("DELETE", "/api/models/gpt2/tag/v1"),
        ("PUT", "/api/models/gpt2/settings"),
        ("PUT", "/api/spaces/Org/Space/settings"),
        ("POST", "/api/spaces/Org/Space/restart"),
        ("POST", "/api/models/gpt2/discussions"),
        ("POST", "/api/models/gpt2/super-squash/main"),
        ("POST", "/gpt2.git/info/lfs/objects/batch"),
        ("POST", "/gpt2/git-receive-pack"),
        ("PUT", "/gpt2/resolve/main/config.json"),
        ("PATCH", "/api/models/gpt2"),
        ("POST", "/api/collections"),
    ],
)
def test_every_upload_is_refused(shelf: httpx2.Client, method: str, path: str) -> None:
    answer = shelf.request(method, path, json={"operation": "upload"})
    assert (answer.status_code, answer.json()) == (403, {"error": REFUSAL})
    assert answer.headers["x-error-message"] == REFUSAL
    assert "x-error-code" not in answer.headers


def test_a_long_upload_hears_the_refusal(shelf: httpx2.Client) -> None:
    answer = shelf.post("/api/models/gpt2/commit/main", content=bytes(2_000_000))
    assert answer.headers["x-error-message"] == REFUSAL
    assert shelf.get("/api/models/gpt2").status_code == 200


# How clients reach the server


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"host": "mirror.lan:8400"}, "http://mirror.lan:8400"),
        ({"host": "[::1]:8400"}, "http://[::1]:8400"),
        (
            {"x-forwarded-host": "hub.lan, inner", "x-forwarded-proto": "https"},
            "https://hub.lan",
        ),
    ],
)
def test_links_follow_the_name_that_the_client_used(
    shelf: httpx2.Client, headers: dict[str, str], base: str
) -> None:
    answer = shelf.get("/api/datasets/Org/Data/tree/main?limit=1&recursive=1", headers=headers)
    assert answer.links["next"]["url"].startswith(f"{base}/api/datasets/Org/Data/tree/main?")


def test_links_follow_the_public_url(hub: Path, managed: HfCache, serve: Serve) -> None:
    folders.make_managed(hub)
    client = serve(managed, proxy=ProxySettings("https://hub.lan/models/"))
    link = client.get(f"{API}/tree/main?limit=1").links["next"]["url"]
    assert link.startswith(f"https://hub.lan/models{API}/tree/main?")


def test_an_untrusted_proxy_is_not_believed(hub: Path, managed: HfCache, serve: Serve) -> None:
    folders.make_managed(hub)
    client = serve(managed, proxy=ProxySettings(trusted_proxies=()))
    answer = client.get(f"{API}/tree/main?limit=1", headers={"x-forwarded-host": "evil.example"})
    assert "evil.example" not in answer.headers["link"]


@pytest.mark.parametrize("host", ["a b", "<x>", "a/b", "a@b", "a:b", ""])
def test_a_host_that_is_none_makes_no_link(shelf: httpx2.Client, host: str) -> None:
    url = "/api/datasets/Org/Data/tree/main?limit=1&recursive=1"
    answer = shelf.get(url, headers={"host": host})
    assert "link" not in answer.headers
    assert answer.status_code == 400


def test_what_a_proxy_was_told_is_told_to_nobody_else(
    hub: Path, managed: HfCache, state: State
) -> None:
    """Its answer names a path of the server, and has no bytes."""
    folders.make_managed(hub)
    settings = ProxySettings(trusted_proxies=[ip_network("127.0.0.1/32")], accel="nginx")
    with run_server(create_app(managed, state, proxy=settings, ttl_s=60)) as url:
        proxy = httpx2.Client(base_url=url)
        other = httpx2.Client(
            base_url=url, transport=httpx2.HTTPTransport(local_address="127.0.0.2")
        )
        with proxy, other:
            path = f"/Org/Model/resolve/main/{WEIGHTS}"
            assert "x-accel-redirect" in proxy.get(path).headers
            assert other.get(path).content == FILES[WEIGHTS]
