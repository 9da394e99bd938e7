"""A tree is made once for all who ask for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mirror.core.source import Snapshot
from mirror.core.tree import RepoFile
from mirror.sources.folder import Folder
from mirror.web import tree_cache
from mirror.web.tree_cache import TreeCache
from tests.folders import MODEL, make_plain


@pytest.fixture
def snapshot(tmp_path: Path, plain: Folder) -> Snapshot:
    make_plain(tmp_path / "plain")
    return plain.snapshot(MODEL, "main")


class Files:
    """The files of a snapshot, and how often they were asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.asked = 0
        self._files = {path: one.file for path, one in snapshot.files.items()}

    def __call__(self) -> Mapping[str, RepoFile]:
        self.asked += 1
        time.sleep(0.05)
        return self._files


def test_those_who_ask_at_once_share_a_tree(snapshot: Snapshot) -> None:
    trees, files = TreeCache(), Files(snapshot)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: trees.get(snapshot, files), range(16)))
    assert ({id(one) for one in found}, files.asked) == ({id(found[0])}, 1)


def test_another_snapshot_has_another_tree(snapshot: Snapshot) -> None:
    trees, files, other = TreeCache(), Files(snapshot), replace(snapshot)
    assert trees.get(snapshot, files) is not trees.get(other, files)


def test_a_tree_is_forgotten_after_a_moment(snapshot: Snapshot) -> None:
    trees, files = TreeCache(0.01), Files(snapshot)
    for _ in range(2):
        trees.get(snapshot, files)
        time.sleep(0.02)
    assert files.asked == 2


def test_trees_are_kept_within_a_bound(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_cache, "_MAX_FILES", 2 * len(snapshot.files))
    trees, files = TreeCache(), Files(snapshot)
    for _ in range(5):
        trees.get(replace(snapshot), files)
    assert len(trees._kept) == 2
    assert not trees._turns
