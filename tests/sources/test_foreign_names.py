"""Files of operating systems and copying tools are not files of the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.core.errors import BlobUnreadableError
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.maintenance.verify import Verify
from mirror.sources.bento import BentoStore
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from mirror.store.cache import Cache
from tests.core.test_foreign_names import SYSTEM, UNFINISHED
from tests.folders import (
    COMMIT,
    FILES,
    MODEL,
    Content,
    add_tree,
    make_classic,
    make_managed,
    make_plain,
    make_real_files,
    write,
)

Make = Callable[..., Path]


def _litter(folder: Path) -> None:
    for name in SYSTEM:
        write(folder / name, b"\x00\x05\x16\x07")
        write(folder / "sub dir" / name, b"litter")
    write(folder / "@eaDir2" / "@eaDir" / "config.json@SynoEAStream", b"litter")


def test_a_plain_folder(tmp_path: Path, plain: Folder) -> None:
    before = make_plain(tmp_path / "plain")
    commit = plain.snapshot(MODEL, "main").commit_hash
    _litter(before)
    snapshot = plain.snapshot(MODEL, "main")
    assert snapshot.files.keys() == {*FILES, ".gitattributes"}
    assert snapshot.commit_hash == commit


@pytest.mark.parametrize("make", [make_classic, make_real_files])
@pytest.mark.parametrize("trees", [0, 1])
def test_a_foreign_cache(hub: Path, foreign: HfCache, make: Make, trees: int) -> None:
    folder = make(hub)
    for _ in range(trees):
        add_tree(folder, Content())
    _litter(folder / "snapshots" / COMMIT)
    _litter(folder / "refs")
    _litter(folder / "blobs")
    _litter(hub)
    assert foreign.repos() == [MODEL]
    assert foreign.refs(MODEL) == {"refs/heads/main": COMMIT}
    assert foreign.snapshot(MODEL, "main").files.keys() == FILES.keys()
    assert foreign.snapshot(MODEL, "main").problems == {}


@pytest.mark.parametrize("make", [make_classic, make_real_files])
def test_a_file_that_the_repository_really_has(hub: Path, foreign: HfCache, make: Make) -> None:
    """Some repositories of the hub hold files of such names: the client's links or the list of
    all files show it."""
    content = Content({**FILES, ".DS_Store": b"committed", "sub/model.part": b"committed"})
    folder = make(hub, content)
    add_tree(folder, content)
    assert foreign.snapshot(MODEL, "main").files.keys() == content.files.keys()
    assert foreign.snapshot(MODEL, "main").problems == {}


def test_a_bento_store(tmp_path: Path, digests: Digests) -> None:
    folder = tmp_path / "bento/models/org--model/1"
    make_plain(folder)
    write(folder / "model.yaml", b"name: org--model\nversion: '1'\n")
    _litter(folder)
    _litter(tmp_path / "bento/models")
    _litter(tmp_path / "bento/models/org--model")
    store = BentoStore(tmp_path / "bento", digests, ttl_s=0)
    (repo,) = store.repos()
    assert store.snapshot(repo, "main").files.keys() == {*FILES, ".gitattributes"}


def test_verify_of_a_managed_cache(hub: Path) -> None:
    folder = make_managed(hub)
    for part in ("", "refs", "blobs", "hubmirror", "trees", f"snapshots/{COMMIT}"):
        _litter(folder / part)
    cache = Cache.of(hub)
    assert Verify(lambda _: None).cache(cache, cache.folders()) == []


def test_verify_of_a_foreign_cache(hub: Path, foreign: HfCache, state: State) -> None:
    folder = make_classic(hub)
    for part in ("", "refs", "blobs", f"snapshots/{COMMIT}"):
        _litter(folder / part)
    assert Verify(lambda _: None).source(foreign, [MODEL], state) == []


@pytest.mark.parametrize(("path", "final"), UNFINISHED.items())
def test_an_unfinished_copy_stands_for_its_file(
    tmp_path: Path, plain: Folder, hub: Path, foreign: HfCache, path: str, final: str
) -> None:
    """The file is listed and refused, until it is there under its own name."""
    root, snapshot = make_plain(tmp_path / "plain"), make_real_files(hub) / "snapshots" / COMMIT
    for folder, source in ((root, plain), (snapshot, foreign)):
        write(folder / path, b"half")
        files = source.snapshot(MODEL, "main").files
        assert path not in files
        if final not in FILES:
            with pytest.raises(BlobUnreadableError, match="not finished"):
                files[final].open()
        write(folder / final, FILES.get(final, b"whole"))
        assert source.snapshot(MODEL, "main").problems == {}
