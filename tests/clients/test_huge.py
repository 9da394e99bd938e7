"""A file over the 50 GB from which on huggingface_hub downloads by Xet alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.core.repo import Repo
from mirror.core.tree import lfs_file
from mirror.core.units import human
from mirror.derived.state import State
from mirror.store.publish import publish
from tests import folders
from tests.clients.clients import HUBS, Run
from tests.clients.conftest import Mirror, offering
from tests.clients.proxies import Trap
from tests.clients.test_xet import by_xet
from tests.folders import Content

pytestmark = [pytest.mark.clients, pytest.mark.timeout(7200)]

SIZE = 50_000_000_001
MARK = b"not zeros"  # at the beginning, in the middle and at the end
# What sha256 and hf_xet.hash_files say: five minutes of two cores.
SHA256 = "c0497d6c59227922de785c3be197e388b10eece03dd261188b1f92bf08c79c6a"
XET_HASH = "b7332f9f8711ac6d7297e4430a8699d3f57859f5e8ef303fe02e3b0726de0415"
PATH = "huge.safetensors"
WISH = "TEST_50GB"
NEEDED = SIZE + 1_000_000_000


@pytest.fixture(scope="module")
def url(mirror: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A managed repository of one file, which is sparse on disk and whose hash upstream told."""
    hub = tmp_path_factory.mktemp("huge")
    file = lfs_file(PATH, SIZE, SHA256, XET_HASH)
    content = Content({}, repo=Repo.parse("Org/Huge"))
    blob = folders.make_managed(hub, content) / "blobs" / SHA256
    blob.parent.mkdir()
    with blob.open("wb") as stream:
        for place in (0, SIZE // 2, SIZE - len(MARK)):
            stream.seek(place)
            stream.write(MARK)
    publish(hub, folders.make_record(content, files={PATH: file}))
    with offering(mirror, hub, State(hub / "state")) as url:
        yield url


@pytest.fixture
def newest(mirror: Mirror, trap: Trap, tmp_path: Path) -> Iterator[Run]:
    """The newest client. It has no cell in the table, which no skipped test may invalidate."""
    home, began = tmp_path / "home", len(mirror.log.getvalue())
    home.mkdir()
    yield Run(HUBS[-1], "", home, trap, lambda: mirror.log.getvalue()[began:], timeout=3600)
    shutil.rmtree(home)


def test_it_is_refused_without_xet(newest: Run, url: str) -> None:
    told = newest("error", "Org/Huge", "main", PATH, endpoint=url, HF_HUB_DISABLE_XET="1")
    assert "The file is too large to be downloaded" in told["message"]


def test_it_arrives_by_xet(
    newest: Run, url: str, record_property: Callable[[str, object], None]
) -> None:
    if WISH not in os.environ:
        pytest.skip(f"downloads 50 GB, which takes minutes: set {WISH}=1")
    free = shutil.disk_usage(newest.home).free
    if free < NEEDED:
        pytest.skip(f"needs {human(NEEDED)} in {newest.home}, and {human(free)} are free")
    told = newest("huge", "Org/Huge", PATH, endpoint=url)
    assert told["sha256"] == SHA256
    assert by_xet(newest.log()) == {PATH}
    seconds, peak = told["seconds"], told["peak_bytes"]
    record_property("note", f"{SIZE} bytes by Xet: {seconds:.0f} s, client's peak {human(peak)}")
