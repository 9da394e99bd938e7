"""`hubmirror rm` and `gc` on sources that are served in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from mirror.core.repo import Repo
from tests.carried import TWIN, hubmirror, names_below, offline_files
from tests.filling import DAY, Later
from tests.folders import (
    COMMIT,
    FILES,
    MODEL,
    OLDER,
    Content,
    entry,
    make_classic,
    make_managed,
    make_plain,
    make_shared,
    repo_dir,
    write,
)

OLD = Content({**FILES, "config.json": b'{"old": true}'}, OLDER)


@pytest.fixture(params=[make_classic, make_shared], ids=["classic", "shared"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A foreign cache: a repository with two revisions, and another repository."""
    (tmp_path / "data").mkdir()
    make: Callable[..., Path] = request.param
    make(tmp_path / "cache", Content(repo=TWIN))
    make(tmp_path / "cache", OLD)
    write(repo_dir(tmp_path / "cache") / "refs" / "v1", OLDER.encode())
    make(tmp_path / "cache")
    return tmp_path / "cache"


def run(cache: Path, *words: str, status: int = 0) -> str:
    return hubmirror(
        cache.parent / "data", *words, "--source", f"hf-cache:{cache}", status=status
    ).output


def listed(cache: Path) -> set[tuple[str, str]]:
    """Repositories and commits according to huggingface_hub, which must report no damage."""
    found = scan_cache_dir(cache)
    assert found.warnings == []
    return {
        (repo.repo_id, revision.commit_hash) for repo in found.repos for revision in repo.revisions
    }


def test_rm_removes_only_the_named_repository(cache: Path) -> None:
    output = run(cache, "rm", "org/model")
    assert output.startswith(f"Removed org/model from hf-cache:{cache}: ")
    assert listed(cache) == {(TWIN.repo_id, COMMIT)}
    assert offline_files(cache, TWIN)
    assert "Org/Model" not in run(cache, "ls", "--json")


@pytest.mark.parametrize("revision", ["v1", OLDER, OLDER[:8]])
def test_rm_removes_only_the_named_revision(cache: Path, revision: str) -> None:
    run(cache, "rm", f"Org/Model@{revision}")
    assert listed(cache) == {(TWIN.repo_id, COMMIT), (MODEL.repo_id, COMMIT)}
    assert offline_files(cache, MODEL).keys() == FILES.keys()
    assert not (repo_dir(cache) / "blobs" / entry("", OLD.files["config.json"]).etag).exists()


@pytest.mark.parametrize("target", ["Org/None", "Org/Model@v9", "datasets/Org/Model"])
def test_rm_of_an_absent_target_is_reported(cache: Path, target: str) -> None:
    before = names_below(cache)
    assert f"{target} is neither in the data folder nor in a cache" in run(
        cache, "rm", target, status=1
    )
    assert names_below(cache) == before


def test_rm_uses_the_data_folder_first(cache: Path) -> None:
    data = cache.parent / "data"
    make_managed(data / "hub")
    run(cache, "rm", "Org/Model")
    assert not repo_dir(data / "hub").exists()
    assert (MODEL.repo_id, COMMIT) in listed(cache)


def test_rm_keeps_a_plain_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    make_plain(tmp_path / "plain")
    before = names_below(tmp_path / "plain")
    source = ("--source", f"folder:{tmp_path}/plain=Org/Plain")
    output = hubmirror(tmp_path / "data", "rm", "Org/Plain", *source, status=1).output
    assert "hubmirror does not remove plain folders" in output
    hubmirror(tmp_path / "data", "gc", *source)
    assert names_below(tmp_path / "plain") == before


def test_gc_removes_abandoned_files_of_a_foreign_cache(cache: Path, later: Later) -> None:
    blobs = repo_dir(cache) / "blobs"
    for name in ("a" * 64, f"{'b' * 64}.incomplete"):
        write(blobs / name, b"1234567")
    assert run(cache, "gc").splitlines()[-1] == "0 B freed."
    later(2 * DAY)
    before = names_below(cache)
    assert run(cache, "gc", "--dry-run").splitlines()[-1] == "14 B could be freed."
    assert names_below(cache) == before
    assert run(cache, "gc").splitlines()[-1] == "14 B freed."
    assert len(listed(cache)) == 3
    assert offline_files(cache, MODEL).keys() == FILES.keys()


def test_gc_removes_unfinished_bento_entries(tmp_path: Path, later: Later) -> None:
    home = tmp_path / "data" / "bentoml"
    write(home / ".hubmirror-half" / "a" / "b", b"1234567")
    assert hubmirror(tmp_path / "data", "gc").stdout.splitlines()[-1] == "0 B freed."
    later(2 * DAY)
    assert hubmirror(tmp_path / "data", "gc").stdout.splitlines()[-1] == "7 B freed."
    assert not (home / ".hubmirror-half").exists()


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # BentoML's own
def test_rm_removes_entries_of_another_bento_store(tmp_path: Path) -> None:
    pytest.importorskip("bentoml", reason="BentoML is not installed in this environment")
    data, home = tmp_path / "data", tmp_path / "store"
    make_managed(data / "hub")
    hubmirror(data, "bento", "add", "Org/Model", "--store", str(home))
    hubmirror(data, "rm", "Org/Model")
    source = ("--source", f"bento:{home}")
    assert Repo.parse("Org/Model").repo_id in hubmirror(data, "ls", *source).stdout
    hubmirror(data, "rm", f"Org/Model@{COMMIT}", *source)
    assert not list((home / "models").iterdir())
