"""`hubmirror adopt`: adds files of other sources to the managed cache by hard link."""

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
    """The folder of the cache to adopt."""
    return tmp_path / "other"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder on another device."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm does not exist or is not a separate device")
    with tempfile.TemporaryDirectory(dir=shared, prefix="hubmirror-adopt-") as name:
        yield Path(name)


def _adopt(data: Path, cache: Path, *words: str, status: int = 0) -> str:
    return hubmirror(data, "adopt", "--source", f"hf-cache:{cache}", *words, status=status).output


def _make(cache: Path, make: Make = make_classic, content: Content = CONTENT) -> Path:
    """A foreign cache with huggingface_hub's tree file."""
    folder = make(cache, content)
    add_tree(folder, content)
    return folder


def _status(data: Path) -> dict[str, str]:
    rows = map(json.loads, hubmirror(data, "ls", "--json").stdout.splitlines())
    return {row["repo_id"]: row["status"] for row in rows}


@pytest.mark.parametrize("make", [make_classic, make_shared, make_real_files])
def test_a_cache_is_adopted_by_hard_link(data: Path, other: Path, make: Make) -> None:
    source = _make(other, make) / "snapshots" / COMMIT
    before = names_below(other)
    assert "adopted (5 files" in _adopt(data, other)
    for path in FILES:
        adopted = blob(data / "hub", CONTENT, path)
        assert adopted.stat().st_ino == (source / path).stat().st_ino
        assert not adopted.is_symlink()
    assert names_below(other) == before
    assert _status(data) == {"Org/Model": "complete"}
    assert "No problems found." in hubmirror(data, "verify").stdout


def test_an_adopted_repository_works_offline(data: Path, other: Path, tmp_path: Path) -> None:
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


def test_files_of_another_device_are_copied(data: Path, memory: Path) -> None:
    _make(memory)
    _adopt(data, memory)
    adopted = blob(data / "hub", CONTENT, WEIGHTS)
    assert adopted.stat().st_dev != memory.stat().st_dev
    assert adopted.read_bytes() == FILES[WEIGHTS]
    assert "No problems found." in hubmirror(data, "verify").stdout
    assert not list((data / "hub" / ".hubmirror" / "staging").rglob("*.*"))


@pytest.mark.parametrize("listed", [True, False], ids=["with a tree file", "without"])
def test_a_pull_completes_a_partly_adopted_revision(
    data: Path, other: Path, serve: Serve, digests: Digests, tmp_path: Path, *, listed: bool
) -> None:
    folder = make_classic(other)
    if listed:
        add_tree(folder, CONTENT)
    blob(other, CONTENT, "config.json").unlink()
    (folder / "snapshots" / COMMIT / "config.json").unlink()
    output = _adopt(data, other, status=1)
    if listed:
        assert "the revision lacks 1 file (first: config.json)." in output
    else:
        assert "the source has no list of all files" in output
    assert "Adopted 4 present files." in output
    assert f"`hubmirror pull Org/Model@{COMMIT}`" in output
    assert "complete" not in _status(data).values()

    make_managed(tmp_path / "upstream")
    client = serve(HfCache(tmp_path / "upstream", digests, managed=True, ttl_s=0))
    words = "pull", f"Org/Model@{COMMIT}", "--upstream", str(client.base_url)
    assert "To fetch: 1 file," in hubmirror(data, *words, "--dry-run").stdout
    hubmirror(data, *words)
    assert _status(data) == {"Org/Model": "complete"}
    assert blob(data / "hub", CONTENT, WEIGHTS).samefile(blob(other, CONTENT, WEIGHTS))


def test_as_whole_adopts_a_revision_without_a_file_list(data: Path, other: Path) -> None:
    make_classic(other)
    assert "--as-whole" in _adopt(data, other, status=1)
    _adopt(data, other, "--as-whole")
    assert _status(data) == {"Org/Model": "complete"}
    assert "No problems found." in hubmirror(data, "verify").stdout


def test_adopt_of_bento_entries_needs_a_file_list(data: Path, tmp_path: Path) -> None:
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
    assert "no list of all files" in hubmirror(data, "adopt", *store, status=1).output


def test_adopted_files_keep_their_mode(data: Path, other: Path) -> None:
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
    output = _adopt(data, other, status=1)
    assert f"{WEIGHTS} is corrupt: its digest is " in output
    assert "complete" not in _status(data).values()
    assert not blob(data / "hub", CONTENT, WEIGHTS).exists()
    assert names_below(other) == before


def test_a_failure_does_not_stop_other_adoptions(data: Path, other: Path) -> None:
    _make(other)
    flip(blob(other, CONTENT, WEIGHTS))
    _make(other, content=Content(repo=TWIN))
    _adopt(data, other, status=1)
    assert _status(data)["Org/Twin"] == "complete"


def test_only_named_repositories_are_adopted(data: Path, other: Path) -> None:
    _make(other)
    _make(other, content=Content(repo=TWIN))
    _adopt(data, other, "Org/Twin")
    assert _status(data) == {"Org/Twin": "complete"}


def test_adopt_of_an_unknown_repository_fails(data: Path, other: Path) -> None:
    _make(other)
    assert "No source has Org/Typo" in _adopt(data, other, "Org/Typo", status=1)


def test_a_second_adopt_changes_nothing(data: Path, other: Path) -> None:
    _make(other)
    _adopt(data, other)
    before = names_below(data / "hub")
    _adopt(data, other)
    assert names_below(data / "hub") == before


def test_adopt_writes_records_for_a_cache_in_the_data_folder(data: Path) -> None:
    """The command that docs/sources.md recommends for a copied cache."""
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


def test_adopt_keeps_the_record_of_a_pull(data: Path, other: Path) -> None:
    put(data / "hub", CONTENT, info={"pipeline_tag": "text-generation"})
    record = repo_dir(data / "hub") / "hubmirror" / f"{COMMIT}.json"
    before = json.loads(record.read_bytes())
    _make(other)
    _adopt(data, other)
    after = json.loads(record.read_bytes())
    assert (after["info"], after["upstream"]) == (before["info"], before["upstream"])


def test_adopt_requires_a_source(data: Path) -> None:
    assert "There is no source to adopt from" in hubmirror(data, "adopt", status=1).output
