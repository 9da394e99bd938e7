"""Kills a pull at random points, while clients read the folder from a server."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from huggingface_hub import snapshot_download

from mirror.core.repo import Repo
from tests.carried import KILLS, Reader, reading
from tests.filling import MODEL, Filling, digests
from tests.folders import entry
from tests.hub import EVER, HubSimulator, slow
from tests.processes import Running, begin, names, serving_at_once
from tests.waiting import until

REPO = Repo.parse(MODEL)
Known = dict[str, dict[str, str]]


class Hashes(threading.Thread):
    """Repeatedly reads the last two commits by hash. Each must be complete or absent, and may not
    vanish."""

    def __init__(self, url: str, known: Known) -> None:
        super().__init__(daemon=True)
        self.wrong: list[str] = []
        self.files = self.bytes = 0
        self._url = url
        self._known = known
        self._seen: set[str] = set()
        self._rounds = 0
        self._ended = threading.Event()

    def run(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60) as client:
            while not self._ended.wait(0.01):
                for commit in list(self._known)[-2:]:
                    self._read(client, commit)
                self._rounds += 1

    def stop(self) -> None:
        self._ended.set()
        self.join(60)

    def wait(self) -> None:
        """Wait until both revisions were read again."""
        reached = self._rounds + 2
        until(lambda: self._rounds >= reached or not self.is_alive())

    def _read(self, client: httpx2.Client, commit: str) -> None:
        info = client.get(f"/api/models/{MODEL}/revision/{commit}")
        if info.status_code != 200:
            if commit in self._seen or info.status_code not in (404, 503):
                self.wrong.append(f"{commit}: {info.status_code} {info.text}")
            return
        self._seen.add(commit)
        wanted = self._known[commit]
        if {row["rfilename"] for row in info.json()["siblings"]} != wanted.keys():
            self.wrong.append(f"{commit} lacks files: {info.text}")
        for path, digest in wanted.items():
            answer = client.get(f"/{MODEL}/resolve/{commit}/{quote(path)}")
            if hashlib.sha256(answer.content).hexdigest() != digest:
                self.wrong.append(f"{path} of {commit} is wrong: {answer.status_code}")
            self.files += 1
            self.bytes += len(answer.content)


class Killed:
    """A repository that grows on the hub, and its pulls, most of which are killed."""

    def __init__(self, simulator: HubSimulator, filling: Filling, seed: int) -> None:
        self.known: Known = {}
        self.kills: Counter[str] = Counter()
        self.again = 0
        self._files: dict[str, bytes] = {}
        self._new: dict[str, str] = {}
        self._simulator = simulator
        self._filling = filling
        self._random = random.Random(seed)
        self._longest = 0.5

    def grow(self) -> str:
        """Add a commit with some new weights and a new small file."""
        number, before = len(self.known), dict(self._files)
        sizes = self._random.sample([20_000, 100_000, 200_000, 350_000], 3)
        for shard, size in zip(self._random.sample(range(6), 3), sizes, strict=True):
            self._files[f"model-{shard}.safetensors"] = self._random.randbytes(size)
        self._files["config.json"] = b'{"number": %d}' % number
        self._files["empty.txt"] = b""
        commit = self._simulator.repo(MODEL).commit(dict(self._files))
        new = {path: body for path, body in self._files.items() if before.get(path) != body}
        self._new = {entry(path, body).etag: path for path, body in new.items()}
        self.known[commit] = digests(self._files)
        return commit

    def pull(self) -> Running:
        words = ["--data", str(self._filling.data), "--upstream", self._filling.url]
        return begin(self._filling.data.parent / "pull.log", "pull", MODEL, *words)

    def pull_whole(self) -> None:
        began = time.monotonic()
        running = self.pull()
        assert running.wait() == 0, running.said
        self._longest = max(time.monotonic() - began, 0.2)

    def kill(self) -> bool:
        """Kill a pull. Returns whether it was still running."""
        when = self._random.choice(
            [self._at_any_time, self._at_a_blob, self._when_it_publishes, self._at_the_record]
        )
        running = self.pull()
        when(running)
        if not running.kill():
            return False
        self.kills[self._phase()] += 1
        return True

    def resume(self) -> None:
        """Pull again to the end, without fetching finished files again."""
        finished = (names(self._blobs) | names(self._staged)) & self._new.keys()
        self._simulator.requests.clear()
        self.pull_whole()
        for etag, path in self._new.items():
            requests = self._simulator.count(f"GET .*/resolve/.*/{path}$")
            self.again += requests if etag in finished else requests - (path != "empty.txt")

    def _at_any_time(self, _: Running) -> None:
        time.sleep(self._random.uniform(0, self._longest))

    def _at_a_blob(self, running: Running) -> None:
        count = self._random.randrange(1, len(self._new))
        self._wait(running, lambda: len(names(self._blobs) & self._new.keys()) >= count)
        time.sleep(self._random.uniform(0, 0.005))

    def _when_it_publishes(self, running: Running) -> None:
        self._wait(running, lambda: self._new.keys() <= names(self._blobs))
        time.sleep(self._random.uniform(0, 0.015))

    def _at_the_record(self, running: Running) -> None:
        record = self._filling.folder().record(list(self.known)[-1])
        self._wait(running, record.exists)
        time.sleep(self._random.uniform(0, 0.003))

    def _wait(self, running: Running, happened: Callable[[], bool]) -> None:
        until(lambda: happened() or not running.process.is_alive(), interval=0.001)

    @property
    def _blobs(self) -> Path:
        return self._filling.folder().blobs

    @property
    def _staged(self) -> Path:
        return self._filling.hub / ".hubmirror" / "staging" / REPO.folder_name

    def _phase(self) -> str:
        folder, commit = self._filling.folder(), list(self.known)[-1]
        if folder.refs().get("refs/heads/main") == commit:
            return "after the ref"
        if folder.record(commit).exists():
            return "between the record and the ref"
        if folder.snapshot(commit).exists():
            return "between the first link and the record"
        present = len(self._new.keys() & names(self._blobs))
        if present == len(self._new):
            return "between the last blob and the first link"
        return "between blobs" if present else "before the first blob"


@contextmanager
def _hashes(url: str, known: Known) -> Iterator[Hashes]:
    reader = Hashes(url, known)
    reader.start()
    try:
        yield reader
    finally:
        reader.stop()
    assert reader.wrong == []
    assert reader.files


def _wait_for(reader: Reader, commit: str) -> None:
    reader.wait_for(commit, REPO)
    reader.check()


def _offline(filling: Filling) -> dict[str, str]:
    """The files that huggingface_hub reads from the folder offline."""
    folder = Path(snapshot_download(MODEL, cache_dir=filling.hub, local_files_only=True))
    found = [path for path in folder.rglob("*") if path.is_file()]
    return digests({str(path.relative_to(folder)): path.read_bytes() for path in found})


@pytest.mark.timeout(60 + 10 * KILLS)
def test_a_pull_that_is_killed_loses_nothing(
    filling: Filling,
    simulator: HubSimulator,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    seed = random.randrange(10**9)
    record_property("seed", seed)
    killed = Killed(simulator, filling, seed)
    old = killed.grow()
    killed.pull_whole()
    with (
        serving_at_once(filling.hub, tmp_path / "server.log") as url,
        reading(url, killed.known, REPO) as reader,
        _hashes(url, killed.known) as hashes,
    ):
        while killed.kills.total() < KILLS:
            new = killed.grow()
            simulator.fail("GET .*/resolve/", slow(0.05), EVER)
            was_killed = killed.kill()
            assert _offline(filling) in (killed.known[old], killed.known[new])
            simulator.faults.clear()
            hashes.wait()
            if was_killed:
                killed.resume()
            assert _offline(filling) == killed.known[new]
            assert filling.run("verify").stdout == "No problems found.\n"
            _wait_for(reader, new)
            old = new
        assert killed.again == 0
        record_property("kills", dict(killed.kills))
        revisions = reader.readings[REPO].revisions
        record_property("read", {"main": revisions, "files": hashes.files, "bytes": hashes.bytes})
