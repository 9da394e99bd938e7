"""The listing's rows: read once, kept in the state folder, and read again after each change."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.core.repo import Repo, RepoType
from mirror.core.source import Snapshot
from mirror.derived.catalog import Catalog, full_row
from mirror.derived.digests import Digests
from mirror.derived.row_file import Entry
from mirror.derived.state import State
from mirror.sources.hf_cache import HfCache
from tests import folders
from tests.folders import COMMIT, OLDER, Content, write
from tests.waiting import until

NAMES = ["Org/A", "Org/B", "Org/C"]


class Counted(HfCache):
    """A cache that notes of which repositories snapshots were read."""

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self.read: list[str] = []

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        self.read.append(repo.repo_id)
        return super().snapshot(repo, revision)


@pytest.fixture
def hub(hub: Path) -> Path:
    """Three repositories, which have not changed for an hour."""
    for name in NAMES:
        content = Content({"README.md": b"---\nlicense: mit\n---\n"}, COMMIT, Repo.parse(name))
        folders.make_managed(hub, content)
    make_old(hub)
    return hub


def make_old(hub: Path) -> None:
    for folder, _, files in os.walk(hub):
        for path in (folder, *(f"{folder}/{name}" for name in files)):
            os.utime(path, (time.time() - 3600,) * 2, follow_symlinks=False)


@pytest.fixture
def opened(
    hub: Path, digests: Digests, state: State
) -> Iterator[Callable[..., tuple[Catalog, Counted]]]:
    """Opens a catalog as another process would."""
    catalogs: list[Catalog] = []

    def opened(ttl_s: float = 0) -> tuple[Catalog, Counted]:
        source = Counted(hub, digests, managed=True, ttl_s=0)
        catalogs.append(Catalog(source, state, ttl_s=ttl_s))
        return catalogs[-1], source

    yield opened
    for catalog in catalogs:
        catalog.close()


Opened = Callable[..., tuple[Catalog, Counted]]


def ids(catalog: Catalog) -> list[str]:
    return [one.repo.repo_id for one in catalog.entries(RepoType.MODEL) if one.row]


def rows(catalog: Catalog) -> list[dict[str, Any]]:
    return [json.loads(one.row) for one in catalog.entries(RepoType.MODEL)]


def file_of(state: State) -> Path:
    (found,) = (state.folder / "listing").glob("*.jsonl")
    return found


def test_nothing_is_read_again_after_a_restart(opened: Opened) -> None:
    first, source = opened()
    told = rows(first)
    assert set(source.read) == set(NAMES)
    again, source = opened()
    assert rows(again) == told
    assert source.read == []


def test_what_changed_is_read_again(opened: Opened, hub: Path) -> None:
    opened()[0].entries(RepoType.MODEL)
    content = Content({"README.md": b"---\nlicense: apache-2.0\n---\n"}, OLDER, Repo.parse("Org/B"))
    folders.make_managed(hub, content)
    catalog, source = opened()
    assert "license:apache-2.0" in rows(catalog)[1]["tags"]
    assert set(source.read) == {"Org/B"}


def test_a_ref_that_is_written_in_place_is_seen(opened: Opened, hub: Path) -> None:
    """huggingface_hub does so: the folder's time stays. `main` is not there, nor is `master`."""
    folder = hub / "models--Org--B"
    content = Content({"README.md": b""}, OLDER, Repo.parse("Org/B"))
    folders.make_managed(hub, content)
    (folder / "refs" / "main").unlink()
    write(folder / "refs" / "dev", COMMIT.encode())
    make_old(hub)
    before = opened()[1].stamp(Repo.parse("Org/B"))
    write(folder / "refs" / "dev", OLDER.encode())
    os.utime(folder / "refs", (time.time() - 3600,) * 2)
    assert opened()[1].stamp(Repo.parse("Org/B")) != before


def test_a_file_that_comes_into_a_foreign_snapshot_is_seen(hub: Path, digests: Digests) -> None:
    folder = folders.make_classic(hub, Content({"a/b.txt": b"b"}, COMMIT, Repo.parse("Org/F")))
    source = HfCache(hub, digests, managed=False, ttl_s=0)
    make_old(hub)
    before = source.stamp(Repo.parse("Org/F"))
    write(folder / "snapshots" / COMMIT / "a" / "c.bin", b"c")
    assert source.stamp(Repo.parse("Org/F")) != before


def test_what_changed_a_moment_ago_is_looked_at_again(opened: Opened, hub: Path) -> None:
    """A second change may have the time of the first."""
    os.utime(hub / "models--Org--B" / "blobs")
    opened()[0].entries(RepoType.MODEL)
    catalog, source = opened()
    catalog.entries(RepoType.MODEL)
    assert set(source.read) == {"Org/B"}


def test_a_repository_that_went_away_leaves_the_listing(opened: Opened, hub: Path) -> None:
    assert ids(opened()[0]) == NAMES
    (hub / "models--Org--B").rename(hub / "elsewhere")
    assert ids(opened()[0]) == ["Org/A", "Org/C"]
    (hub / "models--Org--A").rename(hub / "elsewhere-too")
    (hub / "models--Org--C").rename(hub / "elsewhere-as-well")
    for _ in range(2):
        assert ids(opened()[0]) == []


def test_workers_look_once(opened: Opened) -> None:
    catalogs = [opened(ttl_s=60) for _ in range(4)]
    threads = [threading.Thread(target=ids, args=[catalog]) for catalog, _ in catalogs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ids(catalog) for catalog, _ in catalogs] == [NAMES] * 4
    assert sorted(len(set(source.read)) for _, source in catalogs) == [0, 0, 0, len(NAMES)]


def test_a_look_that_another_worker_made_is_taken_over(opened: Opened, hub: Path) -> None:
    one, other = opened(ttl_s=0.2)[0], opened(ttl_s=0.2)[0]
    assert ids(one) == ids(other) == NAMES
    (hub / "models--Org--B").rename(hub / "elsewhere")
    until(lambda: ids(one) == ids(other) == ["Org/A", "Org/C"], 10)


LIES: dict[str, Callable[[list[Any]], Any]] = {
    "no list": lambda _: {"a": 1}, "a word": lambda _: "x", "too short": lambda line: line[:-1],
    "a type": lambda line: ["kernel", *line[1:]],
    "an id": lambda line: [line[0], "../x", *line[2:]],
    "an id of another kind": lambda line: [line[0], [], *line[2:]],
    "a stamp": lambda line: [*line[:2], 5, *line[3:]],
    "a count": lambda line: [*line[:3], "1", *line[4:]],
    "a true count": lambda line: [*line[:3], True, *line[4:]],
    "below zero": lambda line: [*line[:3], -1, *line[4:]],
    "infinite": lambda line: [*line[:3], 1e300, *line[4:]],
    "no row": lambda line: [*line[:5], 5, line[6]],
    "a row that is no JSON": lambda line: [*line[:5], "{", line[6]],
    "a row that is a list": lambda line: [*line[:5], "[]", line[6]],
    "another's row": lambda line: [*line[:5], line[5].replace("Org/B", "Org/X"), line[6]],
    "odd tags": lambda line: [*line[:5], line[5].replace('"tags":[', '"tags":5,"x":['), line[6]],
    "odd likes": lambda line: [*line[:5], line[5].replace('"likes":0', '"likes":"many"'), line[6]],
    "more": lambda line: [*line[:6], ["x"]],
}  # fmt: skip


@pytest.mark.parametrize("what", LIES)
def test_a_line_of_the_file_that_lies_is_read_again(
    opened: Opened, state: State, what: str
) -> None:
    told = rows(opened()[0])
    file = file_of(state)
    lines = file.read_text().splitlines()
    lines[2] = json.dumps(LIES[what](json.loads(lines[2])))
    file.write_text("\n".join(lines))
    catalog, source = opened()
    assert rows(catalog) == told
    assert set(source.read) == {"Org/B"}


@pytest.mark.parametrize("body", [b"", b"\n\n", b"\xff\x00", b"[1]\n[2]\n", b"[" * 100_000])
def test_a_file_of_something_else_is_made_again(opened: Opened, state: State, body: bytes) -> None:
    told = rows(opened()[0])
    file_of(state).write_bytes(body)
    assert rows(opened()[0]) == told
    assert opened()[0].entries(RepoType.MODEL)[0].row
    file_of(state).unlink()
    assert rows(opened()[0]) == told


@pytest.mark.parametrize("hour", [3600, -3600])
def test_a_clock_that_was_wrong_is_not_believed(
    opened: Opened, state: State, hub: Path, hour: int
) -> None:
    opened()[0].entries(RepoType.MODEL)
    (compared,) = (state.folder / "listing").glob("*.compared")
    os.utime(compared, (time.time() + hour,) * 2)
    (hub / "models--Org--B").rename(hub / "elsewhere")
    assert ids(opened(ttl_s=60)[0]) == ["Org/A", "Org/C"]


def test_a_state_folder_that_takes_nothing(opened: Opened, state: State) -> None:
    write(state.folder, b"a file")
    catalog, _ = opened()
    assert ids(catalog) == NAMES
    assert ids(catalog) == NAMES


def test_what_full_adds_is_kept(opened: Opened) -> None:
    opened()[0].entries(RepoType.MODEL)
    catalog, source = opened()
    row = full_row(catalog.entries(RepoType.MODEL)[0])
    assert row is not None
    assert row["siblings"] == [{"rfilename": "README.md"}]
    assert row["cardData"] == {"license": "mit"}
    assert source.read == []


@pytest.mark.parametrize("more", ["", "x", "!!!!", "eJwDAAAAAAE=", "\u00e9"])
def test_damaged_additions_are_read_again(more: str) -> None:
    repo = Repo.parse("Org/A")
    assert full_row(Entry(repo, b'{"id":"Org/A"}', 1, 0, more)) is None


def test_other_sources_have_rows_of_their_own(
    opened: Opened, hub: Path, digests: Digests, state: State
) -> None:
    opened()[0].entries(RepoType.MODEL)
    folders.make_classic(hub, Content({"a": b"a"}, COMMIT, Repo.parse("Org/F")))
    other = Catalog(HfCache(hub, digests, managed=False, ttl_s=0), state, ttl_s=0)
    assert ids(other) == [*NAMES, "Org/F"]
    assert ids(opened()[0]) == NAMES
