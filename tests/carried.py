"""What the tests of carrying share: commands, repositories that grow, and a reader who checks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from click.testing import CliRunner, Result

from mirror.cli import main
from mirror.core.repo import Repo
from mirror.store.cache import Cache
from mirror.store.publish import publish
from tests.folders import MODEL, Content, make_record, write
from tests.waiting import until

KILLS = int(os.environ.get("HUBMIRROR_TEST_KILLS", "5"))
TWIN = Repo.parse("Org/Twin")
_ROOT = Path(__file__).parents[1]
_SHARDS = 6
_FIRST_PULL = datetime(2026, 1, 1, tzinfo=UTC)

needs_rsync = pytest.mark.skipif(
    shutil.which("rsync") is None, reason="rsync is not installed: apt-get install rsync"
)


def hubmirror(data: Path, *words: str, status: int = 0) -> Result:
    """A command on a data folder, in this process."""
    environment = {"HUBMIRROR_DATA": str(data), "HUBMIRROR_TEST_KILLS": None}
    with contextlib.chdir(data.parent):
        result = CliRunner().invoke(main, words, env=environment, terminal_width=200)
    assert result.exit_code == status, f"{words}: {result.output}\n{result.exception!r}"
    assert isinstance(result.exception, SystemExit | None)  # one line, and no traceback
    return result


def start(data: Path, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    """A command on a data folder, in a process and a process group of its own."""
    environment = {name: value for name, value in os.environ.items() if "HUBMIRROR" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "mirror", *words],
        cwd=data.parent,
        env={**environment, "HUBMIRROR_DATA": str(data), "PYTHONPATH": str(_ROOT)},
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, **options},
    )


def put(hub: Path, content: Content, **record: Any) -> Path:
    """Write a revision as a pull does: each blob under another name until it is whole."""
    cache = Cache.of(hub)
    folder = cache.folder(content.repo)
    for path, file in content.entries.items():
        if not cache.has(folder, file):
            staged = cache.staging(content.repo) / file.etag
            write(staged, content.files[path])
            cache.accept(folder, file, staged)
    publish(cache.root, make_record(content, **record))
    return folder.path


def grown(number: int, repo: Repo = MODEL, size: int = 200_000) -> Content:
    """The commit `number` of a repository: two in six of its shards are not those of the one
    before. All repositories have the same shards."""
    files = {"README.md": f"# {repo}, {number}\n".encode(), "config.json": b"{}"}
    for shard in range(_SHARDS):
        since = max(0, number - (number - shard) % (_SHARDS // 2))
        body = random.Random(f"{shard} {since}").randbytes(size + shard)
        files[f"model-{shard}.safetensors"] = body
    return Content(files, hashlib.sha1(f"{repo} {number}".encode()).hexdigest(), repo)


def put_grown(data: Path, number: int, repo: Repo = MODEL, **options: Any) -> Content:
    """Each ref has a time of its own: of two that are as long, and were written within a second,
    rsync takes the second for the first."""
    content, pulled_at = grown(number, repo, **options), _FIRST_PULL + timedelta(days=number)
    folder = put(data / "hub", content, pulled_at=pulled_at)
    os.utime(folder / "refs" / "main", (pulled_at.timestamp(), pulled_at.timestamp()))
    return content


def digests_of(content: Content) -> dict[str, str]:
    return {path: hashlib.sha256(body).hexdigest() for path, body in content.files.items()}


def blob(hub: Path, content: Content, path: str) -> Path:
    return hub / content.repo.folder_name / "blobs" / content.entries[path].etag


def flip(path: Path, at: int = -1) -> None:
    """Change one bit, and nothing else that can be seen: neither size nor time."""
    before = path.stat()
    with path.open("r+b") as file:
        place = at % before.st_size
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def names_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder but what is under way there: kind and size by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if ".hubmirror" not in name.parts:
            stat = path.lstat()
            found[str(name)] = (stat.st_mode, 0 if path.is_dir() else stat.st_size)
    return found


def offline_files(hub: Path, repo: Repo, revision: str = "main") -> dict[str, str]:
    """What huggingface_hub itself makes of a cache, with no network: digests of a snapshot."""
    program = f"""
import hashlib, json, pathlib
from huggingface_hub import snapshot_download
folder = pathlib.Path(snapshot_download({repo.repo_id!r}, revision={revision!r}))
print(json.dumps({{str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                  for path in folder.rglob("*") if path.is_file()}}))"""
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    found: dict[str, str] = json.loads(said.stdout)
    return found


@dataclass
class Readings:
    """What a reader saw."""

    revisions: int = 0
    commits: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Reader(threading.Thread):
    """Downloads all the time, and compares all with what it should be. `known` has the digests of
    each commit's files, in the order in which commits are made."""

    def __init__(self, url: str, known: Mapping[str, Mapping[str, str]], *repos: Repo) -> None:
        super().__init__(daemon=True)
        self.readings = {repo: Readings() for repo in repos}
        self._url = url
        self._known = known
        self._ended = threading.Event()

    def run(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60) as client:
            while not self._ended.wait(0.02):
                for repo, seen in self.readings.items():
                    try:
                        self._read(client, repo, seen)
                    except (httpx2.HTTPError, ValueError, KeyError) as exc:
                        seen.wrong.append(repr(exc))

    def stop(self) -> None:
        self._ended.set()
        self.join(60)

    def _read(self, client: httpx2.Client, repo: Repo, seen: Readings) -> None:
        info = client.get(f"/api/models/{repo}")
        if info.status_code != 200:
            if seen.commits:
                seen.wrong.append(f"it was there, and is not: {info.status_code} {info.text}")
            return
        commit = info.json()["sha"]
        if not seen.commits or commit != seen.commits[-1]:
            if commit in seen.commits:
                seen.wrong.append(f"main went back to {commit}")
            seen.commits.append(commit)
        rows = client.get(f"/api/models/{repo}/tree/{commit}?recursive=true").json()
        found = {row["path"] for row in rows}
        if found != self._known[commit].keys():
            seen.wrong.append(f"{commit} has {found}")
        for path, digest in self._known[commit].items():
            answer = client.get(f"/{repo}/resolve/{commit}/{quote(path)}")
            if hashlib.sha256(answer.content).hexdigest() != digest:
                text = f"{answer.status_code} {answer.text[:200]!r}"
                seen.wrong.append(f"{path} of {commit} is not what it should be: {text}")
        seen.revisions += 1

    def wait_for(self, commit: str, repo: Repo = MODEL) -> None:
        """Until it was read."""
        seen = self.readings[repo]
        until(lambda: commit in seen.commits or bool(seen.wrong))
        reached = seen.revisions + 1
        until(lambda: seen.revisions > reached or bool(seen.wrong))

    def check(self) -> None:
        for repo, seen in self.readings.items():
            assert not seen.wrong, f"{repo}: {len(seen.wrong)} of {seen.revisions}: {seen.wrong[0]}"
            assert seen.revisions


@contextlib.contextmanager
def reading(url: str, known: Mapping[str, Mapping[str, str]], *repos: Repo) -> Iterator[Reader]:
    """A reader at work; at the end, nothing that it read was wrong."""
    reader = Reader(url, known, *repos)
    reader.start()
    try:
        yield reader
    finally:
        reader.stop()
    reader.check()


@contextlib.contextmanager
def roomy_folder(otherwise: Path) -> Iterator[Path]:
    """A folder for much, which does not stay; in memory, where thousands of syncs cost nothing."""
    memory = Path("/dev/shm")
    is_roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4e9
    with tempfile.TemporaryDirectory(
        dir=memory if is_roomy else otherwise, prefix="hubmirror-", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


class Killer:
    """Kills a command again and again, each time at a random point of its work: after any of the
    lines that it prints, and a moment more. `found` counts where it was then, as `where` makes it
    out of these lines."""

    def __init__(self, seed: str, where: Callable[[list[str]], str]) -> None:
        self.found: Counter[str] = Counter()
        self._where = where
        self._random = random.Random(seed)
        self._lines = 0
        self._moment = 0.0

    @property
    def hits(self) -> int:
        return self.found.total()

    def kill(self, data: Path, *words: str) -> None:
        """The first time it is only seen what the command prints when nobody kills it."""
        process = start(data, *words)
        assert process.stdout is not None
        if not self._lines:
            times = [time.monotonic() for _ in process.stdout]
            assert process.wait(60) == 0
            self._lines, self._moment = len(times), 2 * (times[-1] - times[0]) / len(times)
        else:
            said = [process.stdout.readline() for _ in range(self._random.randint(1, self._lines))]
            time.sleep(self._random.uniform(0, self._moment))
            was_at_work = process.poll() is None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
            said += process.stdout.readlines()
            if was_at_work:
                self.found[self._where([line.decode() for line in said if line])] += 1
        process.wait(30)
        process.stdout.close()
