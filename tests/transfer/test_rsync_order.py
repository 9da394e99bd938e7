"""A plain rsync to a served folder, in any order: no client sees a part of a revision."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.carried import (
    TWIN,
    Reader,
    digests_of,
    hubmirror,
    needs_rsync,
    put_grown,
    reading,
)
from tests.folders import MODEL
from tests.servers import run_command
from tests.waiting import until

pytestmark = needs_rsync

_WORST = ("refs", "hubmirror", "trees", "snapshots", "blobs")
_REPOS = (MODEL, TWIN)

# Downloads repeatedly with huggingface_hub, each time to a new cache.
_CLIENT = """
import hashlib, json, os, pathlib, shutil, sys
from huggingface_hub import snapshot_download
folder, seen = pathlib.Path(sys.argv[1]), []
while not (folder / "stop").exists():
    found = pathlib.Path(snapshot_download("Org/Model", cache_dir=folder / "cache"))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found.iterdir()}
    seen.append((found.name, files))
    shutil.rmtree(folder / "cache")
    (folder / "seen.json.new").write_text(json.dumps(seen))
    (folder / "seen.json.new").rename(folder / "seen.json")
"""


@dataclass
class Gap:
    """A data folder that grows, and its served copy on the second host. `known` has the digests of
    the files of each commit."""

    data: Path
    site: Path
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    number: int = -1

    def grow(self) -> list[str]:
        """Add a revision to both repositories. Returns the commit hashes."""
        self.number += 1
        commits = []
        for repo in _REPOS:
            content = put_grown(self.data, self.number, repo)
            self.known[content.commit_hash] = digests_of(content)
            commits.append(content.commit_hash)
        return commits

    def copy(self, *words: str) -> None:
        command = ["rsync", "--archive", *words, f"{self.data}/", f"{self.site}/"]
        status = subprocess.run(command, check=False, capture_output=True).returncode
        assert status in (0, 24)  # 24: temporary files vanished

    @contextmanager
    def served(self) -> Iterator[Reader]:
        """Serve the copy while a client downloads and checks it."""
        words = "--data", str(self.site), "--workers", "1"
        with (
            run_command(self.data.parent, *words) as server,
            reading(server.url, self.known, *_REPOS) as reader,
            _client(server.url, self.data.parent / "client", self.known),
        ):
            yield reader


@pytest.fixture
def gap(tmp_path: Path) -> Gap:
    gap = Gap(tmp_path / "data", tmp_path / "site")
    gap.grow()
    gap.copy()
    return gap


@contextmanager
def _client(url: str, folder: Path, known: dict[str, dict[str, str]]) -> Iterator[None]:
    """Run `snapshot_download` repeatedly, and check at the end that each commit was complete."""
    folder.mkdir()
    environment = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(folder)], env={**os.environ, **environment}
    )
    try:
        until((folder / "seen.json").exists)
        yield
    finally:
        (folder / "stop").touch()
        status = process.wait(60)
    assert status == 0
    seen = json.loads((folder / "seen.json").read_bytes())
    assert seen == [[commit, known[commit]] for commit, _ in seen]


def test_pointers_first_and_files_last(gap: Gap) -> None:
    with gap.served() as reader:
        for _ in range(3):
            commits = gap.grow()
            for kind in _WORST:
                gap.copy(
                    "--include=/hub/",
                    "--include=/hub/models--*/",
                    f"--include=/hub/*/{kind}/***",
                    "--exclude=*",
                )
            for repo, commit in zip(_REPOS, commits, strict=True):
                reader.wait_for(commit, repo)
    hubmirror(gap.site, "verify")


def test_single_files_in_any_order(gap: Gap) -> None:
    with gap.served() as reader:
        commits = gap.grow()
        names = [str(path.relative_to(gap.data)) for path in gap.data.rglob("*")]
        names = [
            name
            for name in names
            if not (gap.data / name).is_dir() or (gap.data / name).is_symlink()
        ]
        random.Random("any order").shuffle(names)
        for name in names:
            if ".hubmirror" not in name:
                source = f"{gap.data}/./{name}"
                subprocess.run(
                    ["rsync", "--archive", "--relative", source, f"{gap.site}/"], check=True
                )
        reader.wait_for(commits[0])
    hubmirror(gap.site, "verify")


def test_repeated_rsync_while_the_folder_grows(gap: Gap) -> None:
    """Run rsync repeatedly while new revisions are added."""
    ended = threading.Event()

    def grow() -> None:
        for _ in range(5):
            gap.grow()
        ended.set()

    with gap.served() as reader:
        growing = threading.Thread(target=grow)
        growing.start()
        while not ended.is_set():
            gap.copy()
        growing.join()
        gap.copy()
        reader.wait_for(list(gap.known)[-1], TWIN)
    hubmirror(gap.site, "verify")


def test_a_revision_is_not_served_before_its_files(gap: Gap) -> None:
    """With `--inplace` a file grows under its final name, after its refs and records."""
    with gap.served() as reader:
        (commit, _) = gap.grow()
        gap.copy("--exclude=blobs")
        seen = reader.readings[MODEL]
        before = seen.revisions
        gap.copy("--inplace", "--bwlimit=500k")
        assert seen.revisions > before
        reader.wait_for(commit)
    hubmirror(gap.site, "verify")


def test_temporary_files_of_rsync_are_not_refs(gap: Gap) -> None:
    """rsync first writes to a name with a leading dot, which git does not allow for a ref."""
    refs = gap.site / "hub" / MODEL.folder_name / "refs"
    (refs / ".main.AbCdEf").write_bytes((refs / "main").read_bytes())
    rows = map(json.loads, hubmirror(gap.site, "ls", "--json").stdout.splitlines())
    assert {tuple(row["refs"]) for row in rows} == {("refs/heads/main",)}
