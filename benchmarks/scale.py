"""How a mirror of many repositories starts, lists them, and answers small requests.

It makes 10,000 repositories of 50 tiny files, serves them from one process, and prints tables in
Markdown. All files are in the page cache, since they were just made.

The client is a few lines of asyncio on uvloop, in this process. Its share of a core is in the
table: near 100% it is the client that was measured. The server's CPU is there because it says more
than the clock on a machine that has other work.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from load import Case, Load, print_table, request

from mirror.core.record import Record, render_tree
from mirror.core.repo import Repo
from mirror.core.tree import RepoFile, git_id, lfs_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

COMMIT = "c0ffee" + 34 * "0"
CONNECTIONS = (1, 32)
PAGE = 1000
TTL_S = 1.5  # seconds after which the server looks at its folders again
LATER = "third listing, after a pause: the server looks at its folders again"
_MEMORY = Path("/dev/shm")
_ROOM = 4 * 1024**3
_TIMEOUT_S = 120.0
_FILE = "/{}/resolve/main/config.json"
_NO_FILE = "/{}/resolve/main/nope.json"
_INFO = "/api/models/{}"
_SEARCH = "/api/models?limit=30&search={}"
_SEARCH_PAGE = "/?q={}"
_PAGE_HEADER = "accept: text/html"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_NEXT = re.compile(r'<([^>]+)>; rel="next"')


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the folder is removed
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="hubmirror-scale-") as name:
        folder = Path(name)
        started = time.perf_counter()
        repos = make_hub(folder, options.kind, options.repos, options.files)
        print(
            f"{options.repos} repositories × {options.files} files, {options.kind}, made in "
            f"{time.perf_counter() - started:.0f} s; {os.cpu_count()} cores, "
            f"Python {sys.version.split()[0]}, client: asyncio on uvloop\n"
        )
        words = ["--source", f"hf-cache:{folder}/hub"] if options.kind == "foreign" else []
        rows = [Row.median("start to first 200 of /readyz", start(folder, words, options.rounds))]
        with serving(folder, *words) as server:
            memory = [f"{server.memory():.0f} when ready"]
            rows.append(measure("first listing", server, lambda: list_all(server, options.repos)))
            memory.append(f"{server.memory():.0f} after the first listing")
            rows.append(measure("second listing", server, lambda: list_all(server, options.repos)))
            time.sleep(TTL_S)
            rows.append(measure(LATER, server, lambda: list_all(server, options.repos)))
            print_table(Row.columns, [one.cells for one in rows])
            print_table(
                Result.columns, [one.cells for one in measure_requests(server, repos, options)]
            )
            memory.append(f"{server.memory():.0f} at the end")
            print(f"Resident MiB: {', '.join(memory)}.\n")
        measure_plain(folder, options.plain_files)
        measure_tree(folder, options.tree_files)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=["managed", "foreign"], default="managed")
    parser.add_argument("--repos", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=50, help="of each repository; at least 10")
    parser.add_argument("--dir", type=Path, help="where they are made; else in memory, if it fits")
    parser.add_argument("--rounds", type=int, default=5, help="medians of them are shown")
    parser.add_argument("--seconds", type=float, default=1.0, help="the longest round")
    parser.add_argument("--requests", type=int, default=20_000, help="the most of one round")
    parser.add_argument("--plain-files", type=int, default=200_000, help="of one plain folder")
    parser.add_argument("--tree-files", type=int, default=50_000, help="of one shared tree")
    options = parser.parse_args()
    if options.dir is None and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
        options.dir = _MEMORY
    return options


def make_hub(folder: Path, kind: str, repos: int, files: int) -> list[Repo]:
    """A cache in which all repositories have the same blobs: hard links of one pool."""
    bodies = _bodies(files)
    entries = {path: _entry(path, body) for path, body in bodies.items()}
    (folder / "pool").mkdir()
    for path, body in bodies.items():
        (folder / "pool" / entries[path].etag).write_bytes(body)
    named = [Repo.parse(f"org-{number % 100:02}/model-{number:05}") for number in range(repos)]
    for repo in named:
        _make_repo(str(folder), repo, entries)
        if kind == "managed":
            _add_record(str(folder), repo, entries)
    return named


def _bodies(count: int) -> dict[str, bytes]:
    header = b'{"w":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}'
    shard = len(header).to_bytes(8, "little") + header
    bodies = {
        "README.md": b"---\nlicense: mit\nlanguage: [en]\ntags: [tiny]\n---\n# Model\n",
        "config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
        "tokenizer.json": b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}}}',
        "tokenizer_config.json": b'{"eos_token": "</s>"}',
    }
    bodies |= {f"model-{n:05}-of-00004.safetensors": shard + bytes([n]) * 8 for n in range(1, 5)}
    return bodies | {f"text-{n:03}.txt": b"%d\n" % n for n in range(count - len(bodies))}


def _entry(path: str, body: bytes) -> RepoFile:
    if path.endswith(".safetensors"):
        return lfs_file(path, len(body), hashlib.sha256(body).hexdigest())
    return RepoFile(path, len(body), git_id("blob", body))


def _make_repo(folder: str, repo: Repo, entries: Mapping[str, RepoFile]) -> None:
    here = f"{folder}/hub/{repo.folder_name}"
    snapshot = f"{here}/snapshots/{COMMIT}"
    for one in (f"{here}/blobs", f"{here}/refs", snapshot):
        os.makedirs(one)  # noqa: PTH103  (a million calls: strings are faster)
    for path, file in entries.items():
        os.link(f"{folder}/pool/{file.etag}", f"{here}/blobs/{file.etag}")
        os.symlink(f"../../blobs/{file.etag}", f"{snapshot}/{path}")  # noqa: PTH211
    Path(f"{here}/refs/main").write_text(COMMIT)


def _add_record(folder: str, repo: Repo, entries: Mapping[str, RepoFile]) -> None:
    here = Path(folder, "hub", repo.folder_name)
    record = Record(repo, COMMIT, entries, refs=("refs/heads/main",))
    for name, body in (("trees", render_tree(entries.values())), ("hubmirror", record.render())):
        (here / name).mkdir()
        (here / name / f"{COMMIT}.json").write_bytes(body)


@dataclass(frozen=True, slots=True)
class Server:
    pid: int
    url: str

    def memory(self) -> float:
        """Resident MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def cpu(self) -> float:
        """Seconds of CPU that it has used, in user and in system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(folder: Path, *words: str) -> Iterator[Server]:
    """One server process with more words on its command line; it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mirror", "serve", "--workers", "1"]
    command += ["--port", str(port), "--data", str(folder), *words]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
    ) as process:
        try:
            server = Server(process.pid, f"http://127.0.0.1:{port}")
            _wait(server.url)
            yield server
        finally:
            process.terminate()


def _environment() -> dict[str, str]:
    """As it is, but for a setting that makes every start compile all modules."""
    return {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


def _wait(url: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=_TIMEOUT_S).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


@dataclass(frozen=True, slots=True)
class Row:
    """What something took: by the clock, and of the server's CPU."""

    what: str
    seconds: float
    cpu: float

    columns = ("", "seconds", "server's CPU (s)")

    @property
    def cells(self) -> tuple[str, ...]:
        return self.what, f"{self.seconds:.2f}", f"{self.cpu:.2f}"

    @classmethod
    def median(cls, what: str, rows: Iterable[Row]) -> Row:
        rows = list(rows)
        return cls(
            what,
            statistics.median(one.seconds for one in rows),
            statistics.median(one.cpu for one in rows),
        )


def start(folder: Path, words: Sequence[str], rounds: int) -> Iterator[Row]:
    """Starts the server several times, until it is ready each time."""
    for _ in range(rounds):
        started = time.perf_counter()
        with serving(folder, *words) as server:
            yield Row("", time.perf_counter() - started, server.cpu())


def measure(what: str, server: Server, work: Callable[[], None]) -> Row:
    started, cpu = time.perf_counter(), server.cpu()
    work()
    return Row(what, time.perf_counter() - started, server.cpu() - cpu)


def list_all(server: Server, repos: int) -> None:
    """All pages of the listing."""
    listed = 0
    url = f"{server.url}/api/models?limit={PAGE}"
    while url:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            listed += len(json.load(answer))
            link = _NEXT.search(answer.headers.get("link", ""))
            url = link[1] if link else ""
    if listed != repos:
        sys.exit(f"{listed} of {repos} repositories were listed.")


def measure_plain(folder: Path, count: int) -> None:
    """HEAD of files of one plain folder, each after a pause in which the server forgets."""
    paths = _make_plain(folder / "plain", count)
    words = "--data", str(folder / "empty"), "--source", f"folder:{folder}/plain=org/plain"
    (folder / "empty").mkdir()
    with serving(folder, *words) as server:
        chosen = random.Random(count).sample(paths, 12)
        times = [_seconds_until_known(f"{server.url}/org/plain/resolve/main/{chosen[0]}")]
        for path in chosen[1:]:
            times.append(_seconds(f"{server.url}/org/plain/resolve/main/{path}", "HEAD"))
            time.sleep(TTL_S)
        later = sorted(times[1:])
        cells = [f"{1000 * one:.1f}" for one in (statistics.median(later), later[-1])]
        print(f"A plain folder of {count} files:\n")
        columns = ("first HEAD (s)", "later, median (ms)", "later, slowest (ms)", "resident MiB")
        print_table(columns, [(f"{times[0]:.1f}", *cells, f"{server.memory():.0f}")])


def measure_tree(folder: Path, count: int) -> None:
    """A tree that 1 client, and then 16 at once, ask for: recursive, all pages."""
    repo = Repo.parse("org/large")
    root = folder / "large"
    (root / "pool").mkdir(parents=True)
    body = b"text"
    (root / "pool" / git_id("blob", body)).write_bytes(body)
    entries = {
        path: RepoFile(path, len(body), git_id("blob", body))
        for path in (f"d-{n // 500:03}/f-{n:05}.txt" for n in range(count))
    }
    here = root / "hub" / repo.folder_name
    for one in (here / "blobs", here / "refs", here / "snapshots" / COMMIT):
        one.mkdir(parents=True)
    os.link(root / "pool" / git_id("blob", body), here / "blobs" / git_id("blob", body))
    (here / "refs" / "main").write_text(COMMIT)
    _add_record(str(root), repo, entries)
    rows = []
    for clients in (1, 16):
        with serving(root) as server, ThreadPoolExecutor(clients) as pool:

            def all_clients(clients: int = clients) -> None:
                urls = [f"{server.url}/api/models/{repo}/tree/main?recursive=true"] * clients
                if set(pool.map(_tree_rows, urls)) != {count}:
                    sys.exit("A client got another count of files.")

            rows.append(measure(f"{clients} clients", server, all_clients))
    print(f"The tree of {count} files, by a server that has just started:\n")
    print_table(Row.columns, [one.cells for one in rows])


def _make_plain(folder: Path, count: int) -> list[str]:
    paths = [f"d-{n // 1000:03}/f-{n:06}.txt" for n in range(count)]
    for path in paths:
        Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
        Path(folder, path).write_text(path)
    return paths


def _seconds_until_known(url: str) -> float:
    """Until the server has read all files once; it answers 503 meanwhile."""
    started = time.perf_counter()
    while True:
        try:
            _seconds(url, "HEAD")
        except urllib.error.HTTPError as exc:
            if exc.code != 503:
                raise
            time.sleep(0.1)
        else:
            return time.perf_counter() - started


def _seconds(url: str, method: str) -> float:
    started = time.perf_counter()
    request = urllib.request.Request(url, method=method)
    urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()
    return time.perf_counter() - started


def _tree_rows(url: str) -> int:
    """The number of rows of all pages."""
    count = 0
    while url:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            count += sum(row["type"] == "file" for row in json.load(answer))
            link = _NEXT.search(answer.headers.get("link", ""))
            url = link[1] if link else ""
    return count


@dataclass(slots=True)
class Result:
    case: Case
    connections: int
    rounds: list[tuple[float, ...]] = field(default_factory=list)

    columns = (
        "request", "connections", "requests/s", "p50 (ms)", "p99 (ms)",
        "server's CPU for each (ms)", "client's share of a core",
    )  # fmt: skip

    @property
    def cells(self) -> tuple[str, ...]:
        rate, p50, p99, share, cpu = (
            statistics.median(one) for one in zip(*self.rounds, strict=True)
        )
        times = (f"{1000 * one:.2f}" for one in (p50, p99, cpu))
        return self.case.name, str(self.connections), f"{rate:.0f}", *times, f"{share:.0%}"


def measure_requests(
    server: Server, repos: Sequence[Repo], options: argparse.Namespace
) -> list[Result]:
    results = [Result(case, count) for case in _cases(repos) for count in CONNECTIONS]
    for _, one in itertools.product(range(options.rounds), results):
        load = Load(one.case, options.seconds, options.requests)
        cpu = server.cpu()
        measured = uvloop.run(load.run(server.url, one.connections))
        one.rounds.append((*measured, (server.cpu() - cpu) / len(load.latencies)))
    return results


def _cases(repos: Sequence[Repo]) -> list[Case]:
    """Each asks for one repository again and again, or for all of them in an order of its own."""
    one = [repos[len(repos) // 2]]
    return [
        Case("HEAD of a file, one repository", 200, _endless("HEAD", one, _FILE)),
        Case("HEAD of a file, any repository", 200, _endless("HEAD", repos, _FILE)),
        Case("404 of a file, one repository", 404, _endless("HEAD", one, _NO_FILE)),
        Case("404 of a file, any repository", 404, _endless("HEAD", repos, _NO_FILE)),
        Case("model info, one repository", 200, _endless("GET", one, _INFO)),
        Case("model info, any repository", 200, _endless("GET", repos, _INFO)),
        Case("listing of 30, one search", 200, _endless("GET", one, _SEARCH)),
        Case("listing of 30, any search", 200, _endless("GET", repos, _SEARCH)),
        Case("page of a model, one repository", 200, _endless("GET", one, "/{}", _PAGE_HEADER)),
        Case("page of a model, any repository", 200, _endless("GET", repos, "/{}", _PAGE_HEADER)),
        Case("page of a list, one search", 200, _endless("GET", one, _SEARCH_PAGE, _PAGE_HEADER)),
        Case("page of a list, any search", 200, _endless("GET", repos, _SEARCH_PAGE, _PAGE_HEADER)),
    ]


def _endless(method: str, repos: Sequence[Repo], path: str, *headers: str) -> Iterator[bytes]:
    order = random.Random(path).sample(repos, len(repos))
    return itertools.cycle([request(method, path.format(repo), *headers) for repo in order])


if __name__ == "__main__":
    main()
