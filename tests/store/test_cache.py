"""Where a managed cache keeps a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.core.repo import Repo
from mirror.store.cache import Cache
from tests.folders import make_managed


def test_a_folder_is_found_in_any_case(tmp_path: Path) -> None:
    cache = Cache.of(tmp_path / "hub")
    asked = Repo.parse("oRG/mODEL")
    assert cache.folder(asked).repo == asked
    there = make_managed(cache.root)
    assert (cache.folder(asked).path, str(cache.folder(asked).repo)) == (there, "Org/Model")
    assert cache.folder(Repo.parse("datasets/org/model")).path != there
    there.rename(there.with_name("models--ORG--Model"))
    assert cache.folder(asked).path.name == "models--ORG--Model"


def test_a_new_repository_costs_no_look_at_the_names_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache.of(tmp_path / "hub")
    for number in range(50):
        (cache.root / f"models--org--model-{number}").mkdir()
    cache.folder(Repo.parse("Org/Other"))
    parsed: list[str] = []
    parse = Repo.from_folder_name

    def counted(name: str) -> Repo | None:
        parsed.append(name)
        return parse(name)

    monkeypatch.setattr(Repo, "from_folder_name", counted)
    for number in range(5):
        repo = Repo.parse(f"Org/New-{number}")
        cache.folder(repo).path.mkdir()
    assert len(parsed) == 4
