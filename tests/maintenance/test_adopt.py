"""`hubmirror adopt`: what lies elsewhere becomes managed, proven, by hard link where it can."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mirror.derived.digests import Digests
from mirror.sources.hf_cache import HfCache
from tests.carried import (
    TWIN,
    blob,
    digests_of,
    flip,
    hubmirror,
    names_below,
    offline_files,
    put,
)
from tests.conftest import Serve
from tests.folders import (
    COMMIT,
    FILES,
    MODEL,
    OLDER,
    Content,
    add_tree,
    entry,
    make_classic,
    make_managed,
    make_plain,
    make_real_files,
    make_shared,
    repo_dir,
)

WEIGHTS = "model.safetensors"
CONTENT = Content()
Make = Callable[[Path, Content], Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty data folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Where the caches lie that are adopted."""
    return tmp_path / "other"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder on another device."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not here, or is no device of its own")
    with tempfile.TemporaryDirectory(dir=shared, prefix="hubmirror-adopt-") as name:
        yield Path(name)


def _adopt(data: Path, cache: Path, *words: str, status: int = 0) -> str:
    return hubmirror(data, "adopt", "--source", f"hf-cache:{cache}", *words, status=status).output


def _make(cache: Path, make: Make = make_classic, content: Content = CONTENT) -> Path:
    """A cache of somebody's, with huggingface_hub's list of all files."""
    folder = make(cache, content)
    add_tree(folder, content)
    return folder


def _status(data: Path) -> dict[str, str]:
    rows = map(json.loads, hubmirror(data, "ls", "--json").stdout.splitlines())
    return {row["repo_id"]: row["status"] for row in rows}


@pytest.mark.parametrize("make", [make_classic, make_shared, make_real_files])
def test_a_cache_is_adopted_by_link(data: Path, other: Path, make: Make) -> None:
    source = _make(other, make) / "snapshots" / COMMIT
    before = names_below(other)
    assert "adopted (5 files" in _adopt(data, other)
    for path in FILES:
        there = blob(data / "hub", CONTENT, path)
        assert there.stat().st_ino == (source / path).stat().st_ino
        assert not there.is_symlink()
    assert names_below(other) == before
    assert _status(data) == {"Org/Model": "complete"}
    assert "All is as it should be." in hubmirror(data, "verify").stdout


def test_what_was_adopted_starts_without_a_network(data: Path, other: Path, tmp_path: Path) -> None:
    _make(other)
    plain = make_plain(tmp_path / "plain", Content(repo=TWIN))
    _adopt(data, other, "--source", f"folder:{plain}=Org/Twin")
    shutil.rmtree(other)
    assert offline_files(data / "hub", MODEL) == digests_of(CONTENT)
    twin = offline_files(data / "hub", TWIN)
    assert twin.pop(".gitattributes")
    assert twin == digests_of(CONTENT)


def test_identical_files_are_stored_once(data: Path, other: Path, tmp_path: Path) -> None:
    plain = make_plain(tmp_path / "plain")
    hubmirror(data, "adopt", "--source", f"folder:{plain}=Org/Model")
    assert blob(data / "hub", CONTENT, WEIGHTS).samefile(plain / WEIGHTS)


def test_between_devices_it_is_a_copy(data: Path, memory: Path) -> None:
    _make(memory)
    _adopt(data, memory)
    there = blob(data / "hub", CONTENT, WEIGHTS)
    assert there.stat().st_dev != memory.stat().st_dev
    assert there.read_bytes() == FILES[WEIGHTS]
    assert "All is as it should be." in hubmirror(data, "verify").stdout
    assert not list((data / "hub" / ".hubmirror" / "staging").rglob("*.*"))


@pytest.mark.parametrize("listed", [True, False], ids=["with a tree file", "without"])
def test_a_part_is_taken_and_a_pull_brings_the_rest(
    data: Path, other: Path, serve: Serve, digests: Digests, tmp_path: Path, *, listed: bool
) -> None:
    folder = make_classic(other)
    if listed:
        add_tree(folder, CONTENT)
    blob(other, CONTENT, "config.json").unlink()
    (folder / "snapshots" / COMMIT / "config.json").unlink()
    said = _adopt(data, other, status=1)
    if listed:
        assert "it is not whole: config.json is not there, and 0 others" in said
    else:
        assert "nobody here knows whether it is whole" in said
    assert "The 4 files that are there were taken" in said
    assert f"`hubmirror pull Org/Model@{COMMIT}`" in said
    assert "complete" not in _status(data).values()

    make_managed(tmp_path / "upstream")
    client = serve(HfCache(tmp_path / "upstream", digests, managed=True, ttl_s=0))
    words = "pull", f"Org/Model@{COMMIT}", "--upstream", str(client.base_url)
    assert "To fetch: 1 file," in hubmirror(data, *words, "--dry-run").stdout
    hubmirror(data, *words)
    assert _status(data) == {"Org/Model": "complete"}
    assert blob(data / "hub", CONTENT, WEIGHTS).samefile(blob(other, CONTENT, WEIGHTS))


def test_what_nobody_knows_to_be_whole_is_taken_as_whole(data: Path, other: Path) -> None:
    make_classic(other)
    assert "--as-whole" in _adopt(data, other, status=1)
    _adopt(data, other, "--as-whole")
    assert _status(data) == {"Org/Model": "complete"}
    assert "All is as it should be." in hubmirror(data, "verify").stdout


def test_an_entry_of_a_bento_store_knows_whether_it_is_whole(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("bentoml", reason="BentoML is not installed in this environment")
    full, part = Content(), Content({"config.json": b"{}"}, OLDER)
    make_managed(tmp_path / "upstream" / "hub", full)
    hubmirror(tmp_path / "upstream", "bento", "add", "Org/Model")
    store = ("--source", f"bento:{tmp_path}/upstream/bentoml")
    hubmirror(data, "adopt", *store)
    assert _status(data) == {"Org/Model": "complete"}
    left_out = {"w.bin": entry("w.bin", b"w")}
    make_managed(tmp_path / "upstream" / "hub", part, left_out=left_out, refs=())
    hubmirror(tmp_path / "upstream", "bento", "add", f"Org/Model@{OLDER}")
    assert "nobody here knows" in hubmirror(data, "adopt", *store, status=1).output


def test_an_owners_file_keeps_its_mode(data: Path, other: Path) -> None:
    _make(other)
    weights = blob(other, CONTENT, WEIGHTS)
    weights.chmod(0o600)
    _adopt(data, other)
    assert weights.samefile(blob(data / "hub", CONTENT, WEIGHTS))
    assert weights.stat().st_mode & 0o777 == 0o600


def test_a_corrupt_file_is_not_adopted(data: Path, other: Path) -> None:
    _make(other)
    flip(blob(other, CONTENT, WEIGHTS))
    before = names_below(other)
    said = _adopt(data, other, status=1)
    assert f"{WEIGHTS} is corrupt: its digest is " in said
    assert "complete" not in _status(data).values()
    assert not blob(data / "hub", CONTENT, WEIGHTS).exists()
    assert names_below(other) == before


def test_one_that_fails_does_not_keep_others_back(data: Path, other: Path) -> None:
    _make(other)
    flip(blob(other, CONTENT, WEIGHTS))
    _make(other, content=Content(repo=TWIN))
    _adopt(data, other, status=1)
    assert _status(data)["Org/Twin"] == "complete"


def test_only_what_is_named_is_adopted(data: Path, other: Path) -> None:
    _make(other)
    _make(other, content=Content(repo=TWIN))
    _adopt(data, other, "Org/Twin")
    assert _status(data) == {"Org/Twin": "complete"}


def test_a_repository_that_is_not_there_is_named(data: Path, other: Path) -> None:
    _make(other)
    assert "No source holds Org/Typo" in _adopt(data, other, "Org/Typo", status=1)


def test_to_adopt_again_changes_nothing(data: Path, other: Path) -> None:
    _make(other)
    _adopt(data, other)
    before = names_below(data / "hub")
    _adopt(data, other)
    assert names_below(data / "hub") == before


def test_a_cache_within_the_data_folder_is_given_its_records(data: Path) -> None:
    """As docs/sources.md tells those who copied a cache there."""
    _make(data / "hub")
    inode = blob(data / "hub", CONTENT, WEIGHTS).stat().st_ino
    _adopt(data, data / "hub")
    assert _status(data) == {"Org/Model": "complete"}
    assert blob(data / "hub", CONTENT, WEIGHTS).stat().st_ino == inode


def test_a_corrupt_file_within_the_data_folder_is_found(data: Path) -> None:
    _make(data / "hub")
    flip(blob(data / "hub", CONTENT, WEIGHTS))
    assert f"{WEIGHTS} is corrupt" in _adopt(data, data / "hub", status=1)
    assert "complete" not in _status(data).values()


def test_an_older_cache_does_not_move_refs_back(data: Path, other: Path) -> None:
    put(data / "hub", CONTENT, pulled_at=datetime(2026, 1, 1, tzinfo=UTC))
    _make(other, content=Content({"old.txt": b"old"}, OLDER))
    _adopt(data, other)
    assert (repo_dir(data / "hub") / "refs" / "main").read_text() == COMMIT
    assert blob(data / "hub", Content({"old.txt": b"old"}), "old.txt").exists()


def test_what_a_pull_has_told_of_a_revision_is_kept(data: Path, other: Path) -> None:
    put(data / "hub", CONTENT, info={"pipeline_tag": "text-generation"})
    record = repo_dir(data / "hub") / "hubmirror" / f"{COMMIT}.json"
    before = json.loads(record.read_bytes())
    _make(other)
    _adopt(data, other)
    after = json.loads(record.read_bytes())
    assert (after["info"], after["upstream"]) == (before["info"], before["upstream"])


def test_a_source_must_be_named(data: Path) -> None:
    assert "Name what to adopt" in hubmirror(data, "adopt", status=1).output
