"""The same repository in every kind of folder, each served on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from mirror.core.source import Source
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from tests import folders
from tests.conftest import serving

KINDS = ("classic", "shared", "real-files", "managed", "managed-without-links", "plain")


@dataclass(frozen=True)
class Served:
    """A served folder that holds `folders.FILES` as Org/Model."""

    kind: str
    client: httpx2.Client
    commit_hash: str


@pytest.fixture(params=KINDS, scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One server for all tests of a module: none of them changes the folder."""
    folder = tmp_path_factory.mktemp(request.param)
    state = State(folder / "state")
    with closing(Digests(state)) as digests:
        source = make_source(request.param, folder / "served", digests)
        commit_hash = source.snapshot(folders.MODEL, "main").commit_hash
        with serving(state, source) as client:
            yield Served(request.param, client, commit_hash)


def make_source(kind: str, folder: Path, digests: Digests) -> Source:
    folder.mkdir()
    if kind == "plain":
        folders.make_plain(folder)
        return Folder(folder, folders.MODEL, digests, ttl_s=0)
    made = {
        "classic": folders.make_classic,
        "shared": folders.make_shared,
        "real-files": folders.make_real_files,
        "managed": folders.make_managed,
        "managed-without-links": folders.make_managed,
    }[kind](folder)
    if kind == "managed-without-links":  # as a disk without links holds it
        for link in [path for path in (made / "snapshots").rglob("*") if path.is_symlink()]:
            body = link.read_bytes()
            link.unlink()
            link.write_bytes(body)
        for blob in (made / "blobs").iterdir():
            blob.unlink()
    return HfCache(folder, digests, managed=kind.startswith("managed"), ttl_s=0)
