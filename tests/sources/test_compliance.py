"""The compliance suite on every kind of source."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.derived.digests import Digests
from mirror.sources.bento import BentoStore
from mirror.sources.first_found import FirstFound
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from tests.folders import (
    FILES,
    MODEL,
    OLDER,
    make_classic,
    make_managed,
    make_plain,
    make_real_files,
    make_shared,
    write,
)
from tests.sources.compliance import Case, SourceCompliance, touch
from tests.web import test_blob as remote

MAKERS = {"classic": make_classic, "shared": make_shared, "real files": make_real_files}


class TestHfCache(SourceCompliance):
    @pytest.fixture(params=MAKERS)
    def case(self, request: pytest.FixtureRequest, hub: Path, foreign: HfCache) -> Case:
        folder = MAKERS[request.param](hub)
        return Case(foreign, FILES, MODEL, touch(folder / "refs" / "other", OLDER.encode()))


class TestManagedCache(SourceCompliance):
    @pytest.fixture
    def case(self, hub: Path, managed: HfCache) -> Case:
        folder = make_managed(hub)
        return Case(managed, FILES, MODEL, touch(folder / "hubmirror" / f"{OLDER}.json", b"{}"))


class TestFolder(SourceCompliance):
    @pytest.fixture
    def case(self, tmp_path: Path, plain: Folder) -> Case:
        make_plain(tmp_path / "plain")
        return Case(plain, FILES, MODEL, touch(tmp_path / "plain" / "new.txt"))


class TestBentoStore(SourceCompliance):
    @pytest.fixture
    def case(self, tmp_path: Path, digests: Digests) -> Case:
        entry = tmp_path / "bentoml" / "models" / "org--model" / "v1"
        for path, body in FILES.items():
            write(entry / path, body)
        origin = "{repo_id: Org/Model, repo_type: model}"
        write(entry / "model.yaml", f"metadata: {{hubmirror: {origin}}}\n".encode())
        write(entry.parent / "latest", b"v1")
        store = BentoStore(tmp_path / "bentoml", digests, ttl_s=0)
        return Case(store, FILES, MODEL, touch(entry / "new.txt"))


class TestFirstFound(SourceCompliance):
    @pytest.fixture
    def case(self, hub: Path, tmp_path: Path, managed: HfCache, plain: Folder) -> Case:
        folder = make_managed(hub)
        make_plain(tmp_path / "plain")
        sources = FirstFound([managed, plain])
        return Case(sources, FILES, MODEL, touch(folder / "hubmirror" / f"{OLDER}.json", b"{}"))


class TestRemote(SourceCompliance):
    """A source that has no file on this host."""

    @pytest.fixture
    def case(self) -> Case:
        source = remote.Remote()
        source.arrived.set()
        return Case(source, remote.FILES, MODEL)
