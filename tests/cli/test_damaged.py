"""What the operator reads about files that cannot be served, at the start and from commands."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from mirror.derived.digests import Digests
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from mirror.web.access import Signer
from mirror.web.proxy import ProxySettings
from tests.carried import hubmirror
from tests.conftest import Serve
from tests.folders import (
    COMMIT,
    MODEL,
    Content,
    add_tree,
    make_classic,
    make_managed,
    make_plain,
    repo_dir,
    write,
)
from tests.servers import run_command
from tests.waiting import until

WEIGHTS = "model.safetensors"
WHY = f"{WEIGHTS} cannot be served: its symlink points to a blob that is not here"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A foreign cache that lost the blob of its weights."""
    folder = make_classic(tmp_path / "other")
    (folder / "blobs" / Content().entries[WEIGHTS].etag).unlink()
    return tmp_path / "other"


def _source(folder: Path) -> tuple[str, str]:
    return "--source", f"hf-cache:{folder}"


def test_ls_names_the_file_and_the_reason(data: Path, other: Path) -> None:
    (row,) = map(json.loads, hubmirror(data, "ls", "--json", *_source(other)).stdout.splitlines())
    assert (row["status"], row["note"]) == ("damaged", WHY)


def test_verify_names_the_file_and_the_reason(data: Path, other: Path) -> None:
    output = hubmirror(data, "verify", *_source(other), status=1).stdout
    assert f"dangling    Org/Model  {WHY}." in output
    assert "No problems found" not in output


@pytest.mark.parametrize("has_tree", ["a list of all files", ""])
def test_adopt_refuses_the_revision(data: Path, other: Path, has_tree: str) -> None:
    if has_tree:
        add_tree(repo_dir(other), Content())
    words = ("adopt", *_source(other), "--as-whole")
    assert WHY in hubmirror(data, *words, status=1).output
    assert not (repo_dir(data / "hub") / "hubmirror").exists()


def test_adopt_refuses_pointers_of_git_lfs(data: Path, tmp_path: Path) -> None:
    root = make_plain(tmp_path / "plain")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 10\n"
    write(root / "w.bin", pointer.encode())
    output = hubmirror(data, "adopt", "--source", f"folder:{root}=Org/Model", status=1).output
    assert "w.bin cannot be served" in output
    assert "git lfs pull" in output


def test_a_cache_that_is_partial_on_purpose_is_no_problem(data: Path, tmp_path: Path) -> None:
    folder = make_classic(tmp_path / "other")
    add_tree(folder, Content())
    (folder / "snapshots" / COMMIT / WEIGHTS).unlink()
    (folder / "blobs" / Content().entries[WEIGHTS].etag).unlink()
    source = _source(tmp_path / "other")
    output = hubmirror(data, "verify", *source).stdout
    assert f"partial     Org/Model  {COMMIT[:12]} is partial: {WEIGHTS}" in output
    assert "No problems found." in output
    (row,) = map(json.loads, hubmirror(data, "ls", "--json", *source).stdout.splitlines())
    assert row["status"] == "partial"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_server_says_it_at_the_start_and_readyz_repeats_it(
    tmp_path: Path, other: Path, workers: str
) -> None:
    make_managed(tmp_path / "data" / "hub", Content(repo=MODEL))
    lost = Content({"a.txt": b"a"}, repo=type(MODEL).parse("Org/Half"))
    folder = make_managed(tmp_path / "data" / "hub", lost)
    (folder / "blobs" / lost.entries["a.txt"].etag).unlink()
    repo_dir(other).rename(other / "models--Org--Lost")
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        run_command(tmp_path, "--workers", workers, *_source(other), errors=errors) as command,
    ):
        until(lambda: f"Org/Lost: {WHY}" in log.read_text())
        until(lambda: "Org/Half: Org/Half at" in log.read_text())
        answer = until(lambda: _problems(f"{command.url}/readyz"))
        assert answer.status_code == 200
        assert f"Org/Lost: {WHY}" in answer.text
        assert "Org/Half: Org/Half at" in answer.text
        assert "Org/Model" not in answer.text
        assert str(tmp_path) not in answer.text
        assert log.read_text().count(WHY) == 1


def test_readyz_forgets_what_was_mended(serve: Serve, foreign: HfCache, hub: Path) -> None:
    folder = make_classic(hub)
    blob = folder / "blobs" / Content().entries[WEIGHTS].etag
    body = blob.read_bytes()
    blob.unlink()
    client = serve(foreign)
    until(lambda: WHY in client.get("/readyz").text)
    write(blob, body)
    until(lambda: client.get("/readyz").text == "ready: 1 repositories\n")


def test_readyz_of_a_closed_mirror_names_nothing(
    serve: Serve, tmp_path: Path, digests: Digests
) -> None:
    root = make_plain(tmp_path / "plain")
    (root / "secret.bin").symlink_to("/nowhere")
    source = Folder(root, MODEL, digests, ttl_s=0)
    client = serve(source, proxy=ProxySettings(signer=Signer("token")))
    until(lambda: "files that cannot be served" in client.get("/readyz").text)
    assert "secret" not in client.get("/readyz").text
    assert "Org" not in client.get("/readyz").text


def _problems(url: str) -> httpx2.Response | None:
    """The answer of a worker that has looked at the repositories; None if it has not yet."""
    answer = httpx2.get(url)
    return answer if "cannot be served" in answer.text else None
