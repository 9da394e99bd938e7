"""A data folder that tests fill, in the process of the test or by real commands."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mirror.cli import main
from mirror.config.specs import RepoSpec
from mirror.core.record import Record
from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.hf_cache import HfCache
from mirror.sources.repo_dir import RepoDir
from mirror.store.cache import Cache
from mirror.store.progress import Event, Message, RevisionDone
from mirror.sync.pull import Outcome, Pull, PullPlan
from mirror.sync.upstream import Upstream
from mirror.sync.upstreams import Upstreams
from tests.folders import content_of
from tests.hub import HubSimulator, run_hub

MODEL = "org/model"
FILES = {
    "README.md": b"# Model\n",
    "config.json": b'{"model_type": "llama"}',
    "dir with space/\u00fcn\u00ef#100%.txt": b"odd name\n",
    "empty.txt": b"",
    "model-00001.safetensors": b"\1w" * 150_000,
    "model-00002.safetensors": b"\2w" * 150_000,
    "vocab.txt": b"not kept by LFS\n" * 40_000,
}
WEIGHTS = "model-00001.safetensors"
FIRST_WAIT = 0.01

_OFFLINE = """
import hashlib, json, os, sys
from huggingface_hub import hf_hub_download, snapshot_download

def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

def files(folder):
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            yield os.path.relpath(path, folder).replace(os.sep, "/"), digest(path)

told = []
for asked in json.loads(sys.argv[1]):
    if "filename" in asked:
        told.append({asked["filename"]: digest(hf_hub_download(**asked))})
    else:
        told.append(dict(files(snapshot_download(**asked))))
print(json.dumps(told))
"""


@dataclass
class Filling:
    """A data folder, and the hub that it is filled from. `events` are those of all pulls."""

    data: Path
    url: str
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)

    @property
    def hub(self) -> Path:
        return self.data / "hub"

    @property
    def notes(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Message))

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.events if isinstance(event, RevisionDone)]

    def pull(
        self,
        *specs: str | RepoSpec,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        first_wait: float = FIRST_WAIT,
    ) -> Outcome:
        run, plans = self.plan(*specs, include=include, exclude=exclude, first_wait=first_wait)
        return run.run(plans)

    def plan(
        self,
        *specs: str | RepoSpec,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        first_wait: float = FIRST_WAIT,
    ) -> tuple[Pull, list[PullPlan]]:
        """What a pull would do, and the pull that would do it."""
        hub = Upstream(
            self.url,
            first_wait=first_wait,
            retrying=lambda why, _: self.events.append(Message("warning", why)),
        )
        run = Pull(Cache.of(self.hub), Upstreams(hub), self.events.append)
        wanted = [
            RepoSpec.parse(spec, include, exclude) if isinstance(spec, str) else spec
            for spec in specs
        ]
        return run, run.plan(wanted)

    def folder(self, repo: str = MODEL) -> RepoDir:
        return Cache.of(self.hub).folder(Repo.parse(repo))

    def record(self, commit_hash: str, repo: str = MODEL) -> Record:
        return self.folder(repo).read_record(commit_hash)

    @contextlib.contextmanager
    def source(self) -> Iterator[HfCache]:
        """The folder as a server sees it."""
        digests = Digests(State(self.data / "state"))
        try:
            yield HfCache(self.hub, digests, managed=True, ttl_s=0)
        finally:
            digests.close()

    def shown(self, revision: str = "main", repo: str = MODEL) -> dict[str, bytes]:
        """What a server would send."""
        with self.source() as source:
            files = source.snapshot(Repo.parse(repo), revision).files
            return {path: content_of(stored) for path, stored in files.items()}

    def offline(self, *asked: dict[str, str]) -> list[dict[str, str]]:
        """Digests of the files of `snapshot_download` or `hf_hub_download` with these arguments, by
        a client that uses the folder as its cache and has no hub."""
        program = [sys.executable, "-c", _OFFLINE, json.dumps(asked)]
        environment = {"HF_HUB_CACHE": str(self.hub), "HF_HUB_OFFLINE": "1"}
        said = subprocess.run(
            program, env={**os.environ, **environment}, check=True, capture_output=True
        )
        told: list[dict[str, str]] = json.loads(said.stdout)
        return told

    def run(self, *words: str, status: int = 0) -> Result:
        """A command, run here with this data folder, and with this hub where it pulls."""
        upstream = ("--upstream", self.url) if words[0] == "pull" else ()
        words = (*words, "--data", str(self.data), *upstream)
        result = CliRunner().invoke(main, words, terminal_width=200)
        assert result.exit_code == status, result.output
        return result

    def lines(self, *words: str, status: int = 0) -> list[dict[str, Any]]:
        """What a command prints as JSON."""
        said = self.run(*words, "--json", status=status).stdout
        return [json.loads(line) for line in said.splitlines()]

    def last_pull(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.hub / ".hubmirror" / "last-pull.json").read_bytes())
        return told


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(body).hexdigest() for path, body in files.items()}


def mtimes(folder: Path) -> dict[str, int]:
    """Of all that makes a revision visible."""
    return {
        str(path.relative_to(folder)): path.lstat().st_mtime_ns
        for part in ("refs", "hubmirror", "trees", "snapshots", "blobs")
        for path in (folder / part, *(folder / part).rglob("*"))
    }


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's: no token, no configuration file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("HF_TOKEN", "HUBMIRROR_TEST_KILLS"):
        monkeypatch.delenv(name, raising=False)


Later = Callable[[float], None]
DAY = 24 * 3600.0


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Lets seconds pass: no file can be given an older change time."""

    def pass_(seconds: float) -> None:
        now = time.time() + seconds
        monkeypatch.setattr("mirror.maintenance.garbage.time.time", lambda: now)

    return pass_


@pytest.fixture
def simulator() -> HubSimulator:
    """A hub with one model."""
    simulator = HubSimulator()
    simulator.repo(MODEL).commit(FILES)
    return simulator


@pytest.fixture
def filling(simulator: HubSimulator, tmp_path: Path) -> Iterator[Filling]:
    """An empty data folder, to be filled from the simulator."""
    with run_hub(simulator) as url:
        yield Filling(tmp_path / "data", url)
