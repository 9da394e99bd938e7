"""Caches that the real huggingface_hub made, served in place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.core.errors import EntryNotFoundError
from mirror.core.repo import Repo
from mirror.sources.hf_cache import HfCache
from tests.folders import content_of
from tests.hub import HubSimulator
from tests.servers import run_server

REPO = Repo.parse("org/model")
FILES = {
    "config.json": b"{}",
    "sub/tokenizer.json": b'{"a": 1}',
    "model.safetensors": b"\0w" * 50_000,
}

Download = Callable[..., None]


@pytest.fixture
def simulator() -> HubSimulator:
    simulator = HubSimulator()
    simulator.repo(REPO.repo_id).commit(FILES)
    return simulator


@pytest.fixture
def download(simulator: HubSimulator, hub: Path) -> Iterator[Download]:
    """Run Python in a process of its own, with huggingface_hub caching into `hub`."""
    with run_server(simulator.app) as url:

        def run(code: str, **environment: str) -> None:
            names = {"HF_ENDPOINT": url, "HF_HUB_CACHE": str(hub), "HF_HOME": str(hub.parent)}
            program = f"from huggingface_hub import *\n{code}"
            subprocess.run(
                [sys.executable, "-c", program],
                env={
                    "PATH": os.environ["PATH"],
                    "HF_HUB_DISABLE_TELEMETRY": "1",
                    **names,
                    **environment,
                },
                check=True,
            )

        yield run


def _bodies(source: HfCache, revision: str = "main") -> dict[str, bytes]:
    files = source.snapshot(REPO, revision).files
    return {path: content_of(stored) for path, stored in files.items()}


def test_a_whole_snapshot(download: Download, foreign: HfCache) -> None:
    download("snapshot_download('org/model')")
    assert _bodies(foreign) == FILES
    with pytest.raises(EntryNotFoundError) as failure:
        foreign.snapshot(REPO, "main").find("nope")
    assert failure.value.known  # the client's tree file tells


def test_without_links(download: Download, hub: Path, foreign: HfCache) -> None:
    download("snapshot_download('org/model')", HF_HUB_DISABLE_SYMLINKS="1")
    assert not [path for path in hub.rglob("*") if path.is_symlink()]
    assert _bodies(foreign) == FILES


def test_a_part_of_a_snapshot(download: Download, foreign: HfCache) -> None:
    download("hf_hub_download('org/model', 'config.json')")
    download("try: hf_hub_download('org/model', 'nope.json')\nexcept Exception: pass")
    snapshot = foreign.snapshot(REPO, "main")
    assert list(snapshot.files) == ["config.json"]
    for path, known in (("nope.json", True), ("model.safetensors", False)):
        with pytest.raises(EntryNotFoundError) as failure:
            snapshot.find(path)
        assert failure.value.known == known


def test_a_revision_that_moved(
    simulator: HubSimulator, download: Download, foreign: HfCache
) -> None:
    download("snapshot_download('org/model')")
    old = foreign.snapshot(REPO, "main").commit_hash
    new = simulator.repo(REPO.repo_id).commit({**FILES, "config.json": b"[]"})
    download("snapshot_download('org/model')")
    assert foreign.snapshot(REPO, "main").commit_hash == new
    assert _bodies(foreign, old) == FILES
