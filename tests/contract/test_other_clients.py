"""What clients ask that cannot run here: llama.cpp, Ollama, and Rust's hf-hub.

Each test sends what the client's source sends, with its headers, and reads of the answer what the
client reads.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.hf_cache import HfCache
from tests import folders
from tests.conftest import serving
from tests.folders import COMMIT, OLDER, Content


def make_gguf(architecture: str, file_type: int, weights: int) -> bytes:
    """A whole GGUF file of version 3: four facts, one tensor of F32, its data."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    facts = [
        text("general.architecture") + struct.pack("<I", 8) + text(architecture),
        text("general.file_type") + struct.pack("<II", 4, file_type),
        text(f"{architecture}.context_length") + struct.pack("<II", 4, 4096),
        text("tokenizer.chat_template") + struct.pack("<I", 8) + text("{{ messages }}"),
    ]
    tensor = text("token_embd.weight") + struct.pack("<IQIQ", 1, weights, 0, 0)
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(facts)) + b"".join(facts) + tensor
    return head + bytes(-len(head) % 32) + struct.pack(f"<{weights}f", *range(weights))


SMALL, LARGE = "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"
SPLIT = [f"big-F16-{part:05d}-of-00002.gguf" for part in (1, 2)]
CONTENT = Content(
    {
        "README.md": b"# Tiny\n",
        "empty.txt": b"",
        "imatrix_x.gguf": make_gguf("imatrix", 0, 8),
        "mmproj-F16.gguf": make_gguf("clip", 1, 8),
        "params": b'{"temperature": 0.5}',
        "template": b"{{ .Prompt }}",
        SMALL: make_gguf("llama", 15, 100_000),
        LARGE: make_gguf("llama", 7, 200_000),
    },
    repo=Repo.parse("Org/Tiny-GGUF"),
)
PARTS = Content({path: make_gguf("llama", 1, 64) for path in SPLIT}, repo=Repo.parse("Org/Split"))
BARE = Content({"README.md": b"older\n"}, OLDER, CONTENT.repo)

LLAMA = {"User-Agent": "llama-cpp/b8000-0123456", "Accept": "application/json"}
OLLAMA = {
    "User-Agent": "ollama/0.9.0 (amd64 linux) Go/go1.24.0",
    "Accept": "application/vnd.docker.distribution.manifest.v2+json",
}
RUST = {"User-Agent": "unkown/None; hf-hub/0.4.3; rust/unknown"}
RUST_1 = {"User-Agent": "hf-hub/1.0.0-rc.1"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("gguf")
    hub, state = folder / "hub", State(folder / "state")
    folders.make_managed(hub, CONTENT)
    folders.make_managed(hub, BARE, refs=("refs/pr/1",))
    folders.make_managed(hub, PARTS)
    with closing(Digests(state)) as digests:
        source = HfCache(hub, digests, managed=True, ttl_s=0)
        with serving(state, source) as client:
            yield client


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def json(answer: httpx2.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


# llama.cpp of 2025: `common_get_hf_file`, then `common_download_file_single`.


@pytest.mark.parametrize(
    ("tag", "path"),
    [("latest", SMALL), ("Q8_0", LARGE), ("q4_k_m", SMALL), (LARGE, LARGE)],
)
def test_old_llama_cpp_is_told_the_file_of_a_tag(
    client: httpx2.Client, tag: str, path: str
) -> None:
    told = json(client.get(f"/v2/Org/Tiny-GGUF/manifests/{tag}", headers=LLAMA))
    assert told["ggufFile"]["rfilename"] == path
    assert told["mmprojFile"]["rfilename"] == "mmproj-F16.gguf"


def test_old_llama_cpp_is_told_the_first_part_of_a_split_model(client: httpx2.Client) -> None:
    told = json(client.get("/v2/Org/Split/manifests/latest", headers=LLAMA))
    assert told["ggufFile"]["rfilename"] == SPLIT[0]
    assert "mmprojFile" not in told


def test_llama_cpp_learns_from_a_head_what_a_download_needs(client: httpx2.Client) -> None:
    head = client.head(f"/Org/Tiny-GGUF/resolve/main/{SMALL}", headers=LLAMA)
    assert head.status_code == 200
    assert head.headers["etag"] == f'"{sha256(CONTENT.files[SMALL])}"'
    assert head.headers["content-length"] == str(len(CONTENT.files[SMALL]))
    assert head.headers["accept-ranges"] == "bytes"


def test_llama_cpp_begins_a_download_with_exactly_200(client: httpx2.Client) -> None:
    answer = client.get(f"/Org/Tiny-GGUF/resolve/main/{SMALL}", headers=LLAMA)
    assert (answer.status_code, answer.content) == (200, CONTENT.files[SMALL])


def test_llama_cpp_resumes_a_download_with_exactly_206(client: httpx2.Client) -> None:
    headers = LLAMA | {"Range": "bytes=1000-"}
    answer = client.get(f"/Org/Tiny-GGUF/resolve/main/{SMALL}", headers=headers)
    assert (answer.status_code, answer.content) == (206, CONTENT.files[SMALL][1000:])


def test_old_llama_cpp_is_not_told_that_an_unknown_tag_is_private(client: httpx2.Client) -> None:
    """A 401 would be shown as "model is private or does not exist"."""
    answer = client.get("/v2/Org/Tiny-GGUF/manifests/Q2_K", headers=LLAMA)
    assert answer.status_code == 404


# llama.cpp of 2026: `hf_cache::get_repo_files`, then each file at the commit.


def test_new_llama_cpp_finds_main_among_the_branches(client: httpx2.Client) -> None:
    refs = json(client.get("/api/models/Org/Tiny-GGUF/refs", headers=LLAMA))
    commits = {branch["name"]: branch["targetCommit"] for branch in refs["branches"]}
    assert commits["main"] == COMMIT


def test_new_llama_cpp_lists_all_files_on_one_page(client: httpx2.Client) -> None:
    url = f"/api/models/Org/Tiny-GGUF/tree/{COMMIT}?recursive=true"
    answer = client.get(url, headers=LLAMA)
    files = {row["path"]: row for row in json(answer) if row["type"] == "file"}
    assert files.keys() == CONTENT.files.keys()
    assert "link" not in answer.headers
    oids = [row["lfs"]["oid"] if "lfs" in row else row["oid"] for row in files.values()]
    assert all(re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", oid) for oid in oids)
    assert files[SMALL]["lfs"]["oid"] == sha256(CONTENT.files[SMALL])


@pytest.mark.parametrize("path", SPLIT)
def test_new_llama_cpp_downloads_every_part_at_the_commit(client: httpx2.Client, path: str) -> None:
    url = f"/Org/Split/resolve/{COMMIT}/{path}"
    assert client.head(url, headers=LLAMA).status_code == 200
    answer = client.get(url, headers=LLAMA)
    assert (answer.status_code, answer.content) == (200, PARTS.files[path])


def test_new_llama_cpp_shows_why_a_repository_is_absent(client: httpx2.Client) -> None:
    answer = client.get("/api/models/Org/Absent/refs", headers=LLAMA)
    assert answer.status_code == 404
    assert "Org/Absent is not in this mirror" in answer.json()["error"]


# Ollama: `pullModelManifest`, then `downloadBlob` for each layer and for the config.


MANIFEST = "/v2/Org/Tiny-GGUF/manifests/Q4_K_M"


def manifest(client: httpx2.Client) -> Any:
    return json(client.get(MANIFEST, headers=OLLAMA))


def pull(client: httpx2.Client, digest: str) -> bytes:
    """A HEAD for the size, a GET that is dropped, and one range: the file is small."""
    url = f"/v2/Org/Tiny-GGUF/blobs/{digest}"
    size = int(client.head(url, headers=OLLAMA).headers["content-length"])
    with client.stream("GET", url, headers=OLLAMA) as dropped:
        assert dropped.status_code == 200
    answer = client.get(url, headers=OLLAMA | {"Range": f"bytes=0-{size - 1}"})
    assert answer.status_code in (200, 206)
    return answer.content


def test_ollama_reads_the_layers_of_a_manifest(client: httpx2.Client) -> None:
    told = manifest(client)
    assert (told["schemaVersion"], told["mediaType"]) == (2, OLLAMA["Accept"])
    assert told["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    layers = {layer["mediaType"].rpartition(".")[2]: layer for layer in told["layers"]}
    assert layers.keys() == {"model", "projector", "template", "params"}
    assert layers["model"]["digest"] == f"sha256:{sha256(CONTENT.files[SMALL])}"
    assert layers["model"]["size"] == len(CONTENT.files[SMALL])


def test_ollama_gets_every_layer_with_its_digest_and_size(client: httpx2.Client) -> None:
    told = manifest(client)
    layers = [told["config"], *told["layers"]]
    bodies = [pull(client, layer["digest"]) for layer in layers]
    assert [f"sha256:{sha256(body)}" for body in bodies] == [one["digest"] for one in layers]
    assert [len(body) for body in bodies] == [one["size"] for one in layers]


def test_ollama_resumes_a_part_of_a_layer(client: httpx2.Client) -> None:
    url = f"/v2/Org/Tiny-GGUF/blobs/sha256:{sha256(CONTENT.files[SMALL])}"
    answer = client.get(url, headers=OLLAMA | {"Range": "bytes=5000-9999"})
    assert (answer.status_code, answer.content) == (206, CONTENT.files[SMALL][5000:10000])


def test_ollama_reads_the_model_from_the_config(client: httpx2.Client) -> None:
    digest = manifest(client)["config"]["digest"]
    told = json(client.get(f"/v2/Org/Tiny-GGUF/blobs/{digest}", headers=OLLAMA))
    assert (told["model_format"], told["model_family"]) == ("gguf", "llama")
    assert told["file_type"] == "Q4_K_M"


def test_ollama_gets_the_same_manifest_each_time(client: httpx2.Client) -> None:
    first, second = (client.get(MANIFEST, headers=OLLAMA) for _ in range(2))
    assert first.content == second.content


def test_ollama_is_told_that_it_cannot_load_a_split_model(client: httpx2.Client) -> None:
    """With a 400: of a 404 it shows no text, and half a model it would pull."""
    answer = client.get("/v2/Org/Split/manifests/latest", headers=OLLAMA)
    assert answer.status_code == 400
    assert "one of several parts" in answer.json()["error"]


def test_ollama_resumes_the_config(client: httpx2.Client) -> None:
    url = f"/v2/Org/Tiny-GGUF/blobs/{manifest(client)['config']['digest']}"
    whole = client.get(url, headers=OLLAMA).content
    part = client.get(url, headers=OLLAMA | {"range": "bytes=10-20"})
    assert (part.status_code, part.content) == (206, whole[10:21])


@pytest.mark.parametrize("name", ["Org/Absent/manifests/latest", "Org/Tiny-GGUF/manifests/x"])
def test_ollama_is_not_asked_to_log_in_for_an_absent_model(
    client: httpx2.Client, name: str
) -> None:
    """A 401 would start a login."""
    assert client.get(f"/v2/{name}", headers=OLLAMA).status_code == 404


# hf-hub 0.3 to 0.5, with ureq and with tokio: `Api::metadata`, then the file or chunks of it.


def metadata(client: httpx2.Client, path: str) -> tuple[str, str, int]:
    """The commit, the etag and the size, from a GET of one byte (`Api::metadata`)."""
    url = f"/Org/Tiny-GGUF/resolve/main/{path}"
    answer = client.get(url, headers=RUST | {"Range": "bytes=0-0"})
    assert answer.is_success
    etag = answer.headers.get("x-linked-etag", answer.headers["etag"]).replace('"', "")
    size = int(answer.headers["content-range"].split("/")[-1])
    return answer.headers["x-repo-commit"], etag, size


@pytest.mark.parametrize("path", [SMALL, "README.md", "empty.txt"])
def test_hf_hub_learns_commit_etag_and_size_from_one_byte(client: httpx2.Client, path: str) -> None:
    body, etag = CONTENT.files[path], CONTENT.entries[path].etag
    assert metadata(client, path) == (COMMIT, etag, len(body))


def test_hf_hub_makes_the_file_of_chunks(client: httpx2.Client) -> None:
    """The last chunk of tokio's ends one byte past the file."""
    size, chunk = metadata(client, SMALL)[2], 150_000
    url = f"/Org/Tiny-GGUF/resolve/main/{SMALL}"
    ranges = [(start, min(start + chunk - 1, size)) for start in range(0, size, chunk)]
    answers = [
        client.get(url, headers=RUST | {"Range": f"bytes={start}-{stop}"}) for start, stop in ranges
    ]
    assert b"".join(answer.content for answer in answers) == CONTENT.files[SMALL]


@pytest.mark.parametrize(
    ("revision", "sha"), [("main", COMMIT), (COMMIT, COMMIT), ("refs%2Fpr%2F1", OLDER)]
)
def test_hf_hub_reads_the_commit_and_the_files_of_a_revision(
    client: httpx2.Client, revision: str, sha: str
) -> None:
    told = json(client.get(f"/api/models/Org/Tiny-GGUF/revision/{revision}", headers=RUST))
    files = {COMMIT: CONTENT.files, OLDER: BARE.files}[sha]
    assert told["sha"] == sha
    assert [one["rfilename"] for one in told["siblings"]] == sorted(files)


def test_hf_hub_does_without_an_optional_file(client: httpx2.Client) -> None:
    """text-embeddings-inference asks for ten, and takes any error as absence."""
    url = "/Org/Tiny-GGUF/resolve/main/sentence_xlnet_config.json"
    assert client.get(url, headers=RUST | {"Range": "bytes=0-0"}).status_code == 404


# hf-hub 1.0: HEAD with If-None-Match, the tree, JSON bodies.


URL = f"/Org/Tiny-GGUF/resolve/main/{SMALL}"


def test_hf_hub_1_learns_all_from_a_head(client: httpx2.Client) -> None:
    head = client.head(URL, headers=RUST_1)
    assert head.headers["x-repo-commit"] == COMMIT
    assert head.headers["x-linked-etag"] == f'"{sha256(CONTENT.files[SMALL])}"'
    assert head.headers["x-linked-size"] == str(len(CONTENT.files[SMALL]))
    assert "x-xet-hash" not in head.headers


def test_hf_hub_1_keeps_a_file_that_it_has(client: httpx2.Client) -> None:
    etag = f'"{sha256(CONTENT.files[SMALL])}"'
    assert client.head(URL, headers=RUST_1 | {"If-None-Match": etag}).status_code == 304


def test_hf_hub_1_sees_that_a_file_changed(client: httpx2.Client) -> None:
    head = client.head(URL, headers=RUST_1 | {"If-None-Match": '"other"'})
    assert head.status_code == 200


def test_hf_hub_1_learns_the_commit_that_lacks_a_file(client: httpx2.Client) -> None:
    """It writes a `.no_exist` marker, and the ref, from that header."""
    head = client.head("/Org/Tiny-GGUF/resolve/main/nope.json", headers=RUST_1)
    assert (head.status_code, head.headers["x-repo-commit"]) == (404, COMMIT)


@pytest.mark.parametrize("revision", ["main", "refs/pr/1"])
def test_hf_hub_1_lists_a_tree_by_a_raw_revision(client: httpx2.Client, revision: str) -> None:
    """`list_tree` does not encode the slashes of a revision."""
    url = f"/api/models/Org/Tiny-GGUF/tree/{revision}?recursive=true"
    rows = json(client.get(url, headers=RUST_1))
    files = {"main": CONTENT.files, "refs/pr/1": BARE.files}[revision]
    assert {row["path"]: row["size"] for row in rows if row["type"] == "file"} == {
        path: len(body) for path, body in files.items()
    }


def test_hf_hub_1_asks_for_paths_in_json(client: httpx2.Client) -> None:
    url = "/api/models/Org/Tiny-GGUF/paths-info/main"
    rows = json(client.post(url, json={"paths": [SMALL, "nope"]}, headers=RUST_1))
    assert [(row["type"], row["path"]) for row in rows] == [("file", SMALL)]
