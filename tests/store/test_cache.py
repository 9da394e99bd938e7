"""Where a managed cache keeps a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.core.errors import CorruptBlobError
from mirror.core.repo import Repo
from mirror.store.cache import Cache
from tests.folders import MODEL, entry, make_managed, write


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


def test_a_file_is_read_again_before_it_is_refused(tmp_path: Path) -> None:
    """Its writer may have written out of order while it was read."""
    cache = Cache.of(tmp_path / "hub")
    file, folder = entry("a.bin", b"right"), cache.folder(MODEL)
    for body, digest in ((b"right", 64 * "0"), (b"right", None)):
        staged = cache.staging(MODEL) / file.etag
        write(staged, body)
        cache.accept(folder, file, staged, found=digest)
        assert (folder.blobs / file.etag).read_bytes() == body
    write(staged, b"wrong")
    with pytest.raises(CorruptBlobError, match="its digest is"):
        cache.accept(folder, file, staged, found=64 * "0")
    assert not staged.exists()


def test_only_what_was_staged_is_taken_or_removed(tmp_path: Path) -> None:
    cache = Cache.of(tmp_path / "hub")
    file = entry("a.bin", b"right")
    write(tmp_path / "victim", b"somebody's own file")
    link = cache.staging(MODEL) / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "victim")
    for staged in (
        tmp_path / "victim",
        link,
        cache.staging(MODEL) / ".." / ".." / ".." / ".." / "victim",
    ):
        with pytest.raises(ValueError, match="not a staged file"):
            cache.accept(cache.folder(MODEL), file, staged)
    assert (tmp_path / "victim").read_bytes() == b"somebody's own file"
