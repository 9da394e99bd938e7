"""Two folders of one cache whose repository ids differ only in case."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mirror.cli import main
from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.sources.hf_cache import HfCache
from mirror.store.cache import Cache
from tests import folders
from tests.folders import COMMIT, OLDER, Content

UPPER, LOWER, OTHER = map(Repo.parse, ("Org/Model", "org/model", "ORG/model"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    hub = tmp_path / "data" / "hub"
    folders.make_managed(hub, Content({"a.txt": b"upper"}, COMMIT, UPPER))
    folders.make_managed(hub, Content({"a.txt": b"lower"}, OLDER, LOWER))
    return hub


@pytest.mark.parametrize("is_managed", [True, False])
def test_each_answers_to_its_exact_name(cache: Path, digests: Digests, *, is_managed: bool) -> None:
    source = HfCache(cache, digests, managed=is_managed, ttl_s=0)
    assert source.repos() == [UPPER, LOWER]
    assert source.snapshot(UPPER, "main").commit_hash == COMMIT
    assert source.snapshot(LOWER, "main").commit_hash == OLDER
    assert source.snapshot(OTHER, "main").repo == Cache.of(cache).folder(OTHER).repo == UPPER


def test_both_are_listed_and_verified(cache: Path) -> None:
    data = ("--data", str(cache.parent))
    output = CliRunner().invoke(main, ["ls", *data]).output
    assert "Org/Model" in output
    assert "org/model" in output
    (cache / LOWER.folder_name / "blobs" / folders.entry("a.txt", b"lower").etag).write_bytes(b"x")
    checked = CliRunner().invoke(main, ["verify", *data])
    assert checked.exit_code == 1
    assert "org/model  " in checked.output


def test_both_are_verified_where_they_are_served_in_place(tmp_path: Path) -> None:
    hub, name = tmp_path / "cache", folders.entry("a.txt", b"lower").etag
    folders.make_classic(hub, Content({"a.txt": b"upper"}, COMMIT, UPPER))
    folder = folders.make_classic(hub, Content({"a.txt": b"lower"}, OLDER, LOWER))
    (folder / "blobs" / name).write_bytes(b"LOWER")
    (tmp_path / "data").mkdir()
    words = ["verify", "--source", f"hf-cache:{hub}", "--data", str(tmp_path / "data")]
    checked = CliRunner().invoke(main, words)
    assert "org/model  " in checked.output
    assert checked.exit_code == 1
