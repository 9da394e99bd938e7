"""`hubmirror pull` beside `hf download`, `hubmirror verify` beside `sha256sum`, and a pull in which
nothing is new.

Both clients fetch the same from a mirror on this machine, by HTTP and by Xet: one file, and eight
files of the same size in all. They write to `--dest`, by default memory: on a disk the pull is
measured with its syncs, which `hf download` does not make. Runs alternate; medians and ratios are
printed as Markdown. The files that are served, and those that are verified, are in the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from servers import Server, Table, free_port, until_200
from xet import make_repo, mirror

from mirror.core.record import Record
from mirror.core.repo import Repo
from mirror.core.tree import RepoFile, git_id
from mirror.store.publish import publish

MIB = 1 << 20
GIB = 1 << 30
NAMES = ["hf download", "hubmirror pull"]
CHECKS = ["sha256sum", "hubmirror verify"]


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with (
        tempfile.TemporaryDirectory(dir=options.dir, prefix="hubmirror-filling-") as name,
        tempfile.TemporaryDirectory(dir=options.dest, prefix="hubmirror-filled-") as dest,
    ):
        folder = Path(name)
        mib = int(options.size * 1024)
        (folder / "data").mkdir()
        for repo, sizes in {"file": [mib], "eight": [mib // 8] * 8}.items():
            make_repo(folder / repo, sizes)
        print(f"{os.cpu_count()} cores, {options.size:g} GiB, {options.rounds} rounds\n")
        print("### Pull: one file, and eight\n")
        with upstreams(folder) as servers:
            compare(servers, Path(dest), mib, options.rounds)
            print("### Verify\n")
            verify(servers["HTTP"], Path(dest), mib, options.rounds)
    with tempfile.TemporaryDirectory(dir=options.dest, prefix="hubmirror-filled-") as dest:
        print(f"### A pull of {options.repos} repositories\n")
        nothing_new(Path(dest), options.repos, options.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=float, default=4, help="of what is pulled, in GiB")
    parser.add_argument("--repos", type=int, default=1000, help="of the pull that brings nothing")
    parser.add_argument("--dir", type=Path, help="for the files that are served: twice the size")
    parser.add_argument(
        "--dest", type=Path, default="/dev/shm", help="for what comes: once the size"
    )
    return parser.parse_args()


@contextlib.contextmanager
def upstreams(folder: Path) -> Iterator[dict[str, Server]]:
    """The mirror as one that offers no Xet, and as one that offers it for all files."""
    repos = ["file", "eight"]
    with (
        mirror(folder, repos, "--no-xet") as plain,
        mirror(folder, repos, "--xet-min-size", "0") as by_xet,
    ):
        for repo in repos:
            for file in sorted((folder / repo).iterdir()):
                _until_offered(by_xet, f"/org/{repo}/resolve/main/{file.name}")
        yield {"HTTP": plain, "Xet": by_xet}


def _until_offered(server: Server, path: str) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        head = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method="HEAD")
        with urllib.request.urlopen(head) as answer:
            if "x-xet-hash" in answer.headers:
                return
        time.sleep(0.2)
    sys.exit(f"The xet hash of {path} was not computed.")


@dataclass(frozen=True, slots=True)
class Run:
    """What a command took; memory in MiB."""

    seconds: float
    cpu: float
    memory: float


def run(words: Sequence[str | Path], cwd: Path, **environment: str) -> Run:
    began = time.perf_counter()
    with (cwd / "said").open("w+") as said:
        process = subprocess.Popen(
            words, cwd=cwd, env={**os.environ, **environment}, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            sys.exit(f"{words} failed: {said.read()[-2000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def pull(server: Server, dest: Path, *repos: str) -> Run:
    url = f"http://127.0.0.1:{server.port}"
    words = [sys.executable, "-m", "mirror", "pull", *repos, "--upstream", url]
    (dest / "data").mkdir(parents=True, exist_ok=True)
    return run([*words, "--data", dest / "data"], dest)


def download(server: Server, dest: Path, repo: str) -> Run:
    words = [Path(sys.executable).with_name("hf"), "download", repo]
    endpoint = f"http://127.0.0.1:{server.port}"
    return run(words, dest, HF_HOME=str(dest / "data"), HF_ENDPOINT=endpoint)


def compare(servers: dict[str, Server], dest: Path, mib: int, rounds: int) -> None:
    table = Table()
    for _ in range(rounds):
        for repo in ("file", "eight"):
            for way, server in servers.items():
                for name, client in zip(NAMES, (download, pull), strict=True):
                    took = client(server, dest, f"org/{repo}")
                    shutil.rmtree(dest / "data")
                    what = f"{repo} by {way}"
                    table.add(f"{what}: MiB/s", name, mib / took.seconds)
                    table.add(f"{what}: CPU s/GiB", name, took.cpu / mib * 1024)
                    table.add(f"{what}: memory, MiB", name, took.memory)
    table.print(NAMES, NAMES[0])


def verify(server: Server, dest: Path, mib: int, rounds: int) -> None:
    """`sha256sum` of the same blobs, one process a core."""
    table = Table()
    for repo in ("file", "eight"):
        pull(server, dest, f"org/{repo}")
        blobs = dest / "data" / "hub" / f"models--org--{repo}" / "blobs"
        sums = f"ls {blobs}/* | xargs -P {os.cpu_count()} -n 1 sha256sum"
        check = [sys.executable, "-m", "mirror", "verify", "--data", dest / "data"]
        for _ in range(rounds):
            for name, words in zip(CHECKS, (["sh", "-c", sums], check), strict=True):
                table.add(f"{repo}: MiB/s", name, mib / run(words, dest).seconds)
        shutil.rmtree(dest / "data")
    table.print(CHECKS, CHECKS[0])


def nothing_new(dest: Path, count: int, rounds: int) -> None:
    """Seconds and requests of a pull of many repositories: the first, and others in which nothing
    is new."""
    names = make_repos(dest / "upstream" / "hub", count)
    entries = (f'[[repo]]\nrepo_id = "{name}"\n' for name in names)
    (dest / "hubmirror.toml").write_text("\n".join(entries))
    table, log = Table(), dest / "access.log"
    with logged(dest / "upstream", log, f"/{names[0]}/resolve/main/config.json") as server:
        for number in range(rounds + 1):
            before = _requests(log)
            took, what = pull(server, dest), "nothing new" if number else "the first"
            table.add(f"{what}: seconds", NAMES[1], took.seconds)
            table.add(f"{what}: CPU seconds", NAMES[1], took.cpu)
            table.add(f"{what}: memory, MiB", NAMES[1], took.memory)
            table.add(f"{what}: requests", NAMES[1], _requests(log) - before)
    table.print(NAMES[1:], NAMES[1])


def make_repos(hub: Path, count: int) -> list[str]:
    """A managed cache of small repositories, each with files of its own."""
    names = [f"org-{number % 100:02}/model-{number:05}" for number in range(count)]
    for name in names:
        repo = Repo.parse(name)
        bodies = {"README.md": f"# {name}\n", "config.json": f'{{"name": "{name}"}}'}
        files: dict[str, RepoFile] = {}
        blobs = hub / repo.folder_name / "blobs"
        blobs.mkdir(parents=True)
        for path, text in bodies.items():
            files[path] = RepoFile(path, len(text), git_id("blob", text.encode()))
            (blobs / files[path].etag).write_text(text)
        commit = hashlib.sha1(name.encode()).hexdigest()
        refs = ("refs/heads/main",)
        publish(hub, Record(repo, commit, files, refs=refs, pulled_at=datetime.now(UTC)))
    return names


@contextlib.contextmanager
def logged(data: Path, log: Path, path: str) -> Iterator[Server]:
    """A server that writes its access log to a file; it answers for `path`."""
    port = free_port()
    command = [sys.executable, "-m", "mirror", "serve", "--port", str(port), "--data", str(data)]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) as process,
    ):
        try:
            until_200(port, path)
            yield Server("mirror", process.pid, port)
        finally:
            process.terminate()


def _requests(log: Path) -> int:
    """Lines of requests, when the log has all that were answered."""
    size = -1
    while size != log.stat().st_size:
        size = log.stat().st_size
        time.sleep(1.5)
    with log.open() as lines:
        return sum(" GET " in line or " HEAD " in line for line in lines)


if __name__ == "__main__":
    main()
