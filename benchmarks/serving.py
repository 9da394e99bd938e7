"""The mirror beside nginx on the same files: bulk, small answers, slow readers, a cold file.

Both serve one file of 4 GiB, one of 512 MiB, and one repository of 50 files. Runs alternate between
the servers, and medians and ratios to nginx are printed as Markdown. With one worker the server is
pinned to one core and the client to another; with two workers they share two.

The bulk client throws bytes away inside the kernel (MSG_TRUNC), so that it costs as little as a
client can; its share of a core is in the table: near 100 % it is the client that was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop
from load import Case, Load, request
from servers import Server, Table, free_port, started, until_200, until_idle

GIB = 1 << 30
MIB = 1 << 20
FILE = "/org/big/resolve/main/model.bin"
HALF_GIB = "/org/big/resolve/main/half.bin"
SMALL = "/org/small"
_SLOW_RATE = 256 * 1024
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="hubmirror-serving-") as name:
        folder = Path(name)
        make_files(folder, options.size)
        print(
            f"{os.cpu_count()} cores, a file of {options.size / GIB:.1f} GiB, "
            f"{options.rounds} rounds, {_version()}\n"
        )
        for workers in (1, 2):
            for name, runs in bulk_runs(options.size).items():
                print(f"### Bulk, {name}, {workers} worker{'s' * (workers > 1)}\n")
                bulk(folder, options, workers, runs)
        if options.only_bulk:
            return
        print("### Small answers, one worker\n")
        small(folder, options)
        print("### Behind nginx, one worker\n")
        accel(folder, options)
        print("### The client that people use\n")
        hf_download(folder, options)
        print("### Slow readers and a cold file, one worker\n")
        latency(folder, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=float, default=4, help="of the file, in GiB")
    parser.add_argument("--only-bulk", action="store_true", help="measure large files alone")
    parser.add_argument("--dir", type=Path, help="on a disk, not in memory: else nothing is cold")
    options = parser.parse_args()
    options.size = int(options.size * GIB)
    return options


def _version() -> str:
    said = subprocess.run(["nginx", "-v"], check=True, capture_output=True, text=True).stderr
    return said.strip().rpartition("/")[2].join(["nginx ", ""])


def make_files(folder: Path, size: int) -> None:
    """`big` and `small` as plain folders; nginx finds the same files by links of its own."""
    (folder / "big").mkdir()
    block = os.urandom(16 * MIB)
    for name, length in (("model.bin", size), ("half.bin", GIB // 2)):
        with (folder / "big" / name).open("wb") as file:
            while file.tell() < length:
                file.write(block)
            file.truncate(length)
            os.fsync(file.fileno())
    (folder / "small").mkdir()
    (folder / "small" / "README.md").write_text("---\nlicense: mit\ntags: [a, b]\n---\n# x\n")
    for number in range(49):
        (folder / "small" / f"file-{number:02}.json").write_text(json.dumps({"n": number}))
    for repo in ("big", "small"):
        below = folder / "www" / "org" / repo / "resolve"
        below.mkdir(parents=True)
        (below / "main").symlink_to(folder / repo)
    (folder / "data").mkdir()


@contextlib.contextmanager
def nginx(folder: Path, workers: int, pin: str, behind: int = 0) -> Iterator[Server]:
    """nginx on the files, or with `behind` in front of the mirror on that port."""
    port = free_port()
    conf = folder / f"nginx-{behind}.conf"
    server = f"server {{ listen 127.0.0.1:{port} backlog=2048; root {folder}/www; }}"
    if behind:
        example = Path(__file__).parents[1] / "deploy" / "nginx" / "hubmirror.conf"
        server = example.read_text().replace("listen 80;", f"listen 127.0.0.1:{port};")
        server = server.replace("127.0.0.1:8400", f"127.0.0.1:{behind}")
    conf.write_text(f"""
        daemon off; user root; worker_processes {workers}; pid {conf}.pid;
        error_log /dev/null; events {{ worker_connections 4096; }}
        http {{
          sendfile on; tcp_nopush on; keepalive_requests 100000000; access_log /dev/null;
          {server}
        }}""")
    with started([*pin.split(), "nginx", "-p", str(folder), "-c", str(conf)], "nginx", port) as one:
        yield one


@contextlib.contextmanager
def mirror(folder: Path, workers: int, pin: str, *more: str) -> Iterator[Server]:
    port = free_port()
    words = ["serve", "--port", str(port), "--workers", str(workers), "--data", f"{folder}/data"]
    words += more
    for repo in ("big", "small"):
        words += ["--source", f"folder:{folder}/{repo}=org/{repo}"]
    with started([*pin.split(), sys.executable, "-m", "mirror", *words], "mirror", port) as one:
        for path in (FILE, HALF_GIB, f"{SMALL}/resolve/main/README.md"):
            until_200(port, path)
        until_idle(one)
        yield one


@contextlib.contextmanager
def constant(_: Path, __: int, pin: str) -> Iterator[Server]:
    """Bare Starlette on the same protocol class: what an answer costs at the least."""
    port = free_port()
    command = [
        *pin.split(),
        sys.executable,
        str(Path(__file__).with_name("constant.py")),
        str(port),
    ]
    with started(command, "starlette", port) as one:
        yield one


def bulk_runs(size: int) -> dict[str, dict[str, list[list[bytes]]]]:
    """For each file, what is asked for: requests at the same time, one such group after another."""
    whole = {
        f"a file of {size / GIB:g} GiB": {
            "1 client": [[_get()]],
            "8 clients": [[_part(size // 4)] * 8],
            "64 clients": [[_part(size // 16)] * 64],
            "64 × 16 MiB ranges": [_ranges(FILE, size)] * 4,
        }
    }
    half = {
        "1 client": [[_get(HALF_GIB)]] * 8,
        "8 clients": [[_get(HALF_GIB)] * 8],
        "64 clients": [[_part(GIB // 8, HALF_GIB)] * 64],
        "64 × 16 MiB ranges": [_ranges(HALF_GIB, GIB // 2)] * 4,
    }
    return whole | {"a file of 512 MiB": half}


def bulk(
    folder: Path, options: argparse.Namespace, workers: int, runs: dict[str, list[list[bytes]]]
) -> None:
    table = Table()
    server_pin, client_core = ("taskset -c 0", {1}) if workers == 1 else ("", {0, 1})
    os.sched_setaffinity(0, client_core)
    with nginx(folder, workers, server_pin) as one, mirror(folder, workers, server_pin) as other:
        for _ in range(options.rounds):
            for what, groups in runs.items():
                for server in (one, other):
                    _bulk_once(table, server, what, groups)
    table.print(["nginx", "mirror"], "nginx")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _bulk_once(table: Table, server: Server, what: str, groups: list[list[bytes]]) -> None:
    cpu, own, started = server.cpu(), time.process_time(), time.perf_counter()
    received = sum(delete_garbage(server.port, requests) for requests in groups)
    seconds = time.perf_counter() - started
    cpu, own = server.cpu() - cpu, time.process_time() - own
    gib = received / GIB
    table.add(f"{what}: MiB/s", server.name, received / MIB / seconds)
    table.add(f"{what}: server CPU s/GiB", server.name, cpu / gib)
    table.add(f"{what}: both CPU s/GiB", server.name, (cpu + own) / gib)
    table.add(f"{what}: client's core, %", server.name, 100 * own / seconds)


def _get(path: str = FILE, asked: str = "") -> bytes:
    return request("GET", path, f"range: {asked}" if asked else "connection: keep-alive")


def _part(count: int, path: str = FILE) -> bytes:
    return _get(path, f"bytes=0-{count - 1}")


def _ranges(path: str, size: int) -> list[bytes]:
    starts = [16 * MIB * (number % (size // (16 * MIB))) for number in range(64)]
    return [_get(path, f"bytes={start}-{start + 16 * MIB - 1}") for start in starts]


def delete_garbage(port: int, requests: Sequence[bytes]) -> int:
    """Send each request on a connection of its own, and throw away what comes; its bytes."""
    received, left = 0, len(requests)
    buffer = bytearray(4 * MIB)
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        connections = []
        for one in requests:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(one)
            connections.append(connection)
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, _head(connection))
        while left:
            for key, _ in selector.select(60) or sys.exit("Nothing came for a minute."):
                count = key.fileobj.recv_into(buffer, len(buffer), socket.MSG_TRUNC)  # type: ignore[union-attr]
                received += count
                rest = key.data - count
                if rest <= 0 or not count:
                    selector.unregister(key.fileobj)
                    left -= 1
                else:
                    selector.modify(key.fileobj, selectors.EVENT_READ, rest)
    return received


def _head(connection: socket.socket) -> int:
    """Read the head of an answer alone; the length of its body."""
    head = b""
    while b"\r\n\r\n" not in head:
        head = connection.recv(64 * 1024, socket.MSG_PEEK)
    end = head.index(b"\r\n\r\n") + 4
    connection.recv(end)
    length = _LENGTH.search(head)
    return int(length[1]) if length else sys.exit(head.decode())


def small(folder: Path, options: argparse.Namespace) -> None:
    table = Table()
    files = [f"{SMALL}/resolve/main/file-{number:02}.json" for number in range(10)]
    cases = {
        "HEAD of a file": (
            Case("", 200, itertools.cycle([request("HEAD", path) for path in files])),
            "constant HEAD",
        ),
        "404 of a file": (
            Case("", 404, itertools.cycle([request("HEAD", f"{SMALL}/resolve/main/no")])),
            "constant HEAD",
        ),
        "model info": (
            Case("", 200, itertools.cycle([request("GET", "/api/models/org/small")])),
            "constant JSON",
        ),
        "tree": (
            Case("", 200, itertools.cycle([request("GET", "/api/models/org/small/tree/main")])),
            "constant JSON",
        ),
    }
    bases = {
        "constant HEAD": Case(
            "", 200, itertools.cycle([request("HEAD", "/org/small/resolve/main/x")])
        ),
        "constant JSON": Case("", 200, itertools.cycle([request("GET", "/json")])),
    }
    os.sched_setaffinity(0, {1})
    with mirror(folder, 1, "taskset -c 0") as one, constant(folder, 1, "taskset -c 0") as base:
        for _ in range(options.rounds):
            figures = {name: _load(base, case) for name, case in bases.items()}
            for what, (case, name) in cases.items():
                for server, (rate, p99) in (
                    ("mirror", _load(one, case)),
                    ("starlette", figures[name]),
                ):
                    table.add(f"{what}: requests/s", server, rate)
                    table.add(f"{what}: p99, ms", server, p99)
    table.print(["starlette", "mirror"], "starlette")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _load(server: Server, case: Case, connections: int = 32) -> tuple[float, float]:
    rate, _, p99, _ = uvloop.run(
        Load(case, 1.0, 100_000).run(f"http://127.0.0.1:{server.port}", connections)
    )
    return rate, 1000 * p99


def accel(folder: Path, options: argparse.Namespace) -> None:
    """nginx alone beside nginx that asks the mirror first (deploy/nginx)."""
    table = Table()
    os.sched_setaffinity(0, {1})
    with (
        nginx(folder, 1, "taskset -c 0") as one,
        mirror(folder, 1, "taskset -c 0", "--accel", "nginx") as behind,
        nginx(folder, 1, "taskset -c 0", behind.port) as other,
    ):
        other.name = "nginx + mirror"
        for _ in range(options.rounds):
            runs = {"1 client": [[_get()]], "8 clients": [[_part(options.size // 4)] * 8]}
            for what, groups in runs.items():
                for server in (one, other):
                    _bulk_once(table, server, what, groups)
    table.print(["nginx", "nginx + mirror"], "nginx")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def hf_download(folder: Path, options: argparse.Namespace) -> None:
    """`hf download` of the large file into a folder in memory, by the hub client beside us."""
    table = Table()
    with mirror(folder, min(2, os.cpu_count() or 1), "") as server:
        for _ in range(max(1, options.rounds // 2)):
            with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hubmirror-client-") as home:
                cpu, started = server.cpu(), time.perf_counter()
                subprocess.run(
                    [Path(sys.executable).with_name("hf"), "download", "org/big", "model.bin"],
                    env={"HF_HOME": home, "HF_ENDPOINT": f"http://127.0.0.1:{server.port}"},
                    check=True,
                    capture_output=True,
                )
                rate = options.size / MIB / (time.perf_counter() - started)
                table.add("hf download: MiB/s", "mirror", rate)
                gib = options.size / GIB
                table.add("server CPU s/GiB", "mirror", (server.cpu() - cpu) / gib)
    table.print(["mirror"], "mirror")


def latency(folder: Path, options: argparse.Namespace) -> None:
    table = Table()
    os.sched_setaffinity(0, {1})
    with nginx(folder, 1, "taskset -c 0") as one, mirror(folder, 1, "taskset -c 0") as other:
        for _ in range(max(1, options.rounds // 2)):
            for server in (one, other):
                _slow_readers(table, server)
                for what, clients, cold in (
                    ("64 downloads", 64, False),
                    ("8 cold readers", 8, True),
                ):
                    p99 = _head_beside(folder, server, clients, cold=cold)
                    table.add(f"p99 of a HEAD beside {what}, ms", server.name, p99)
    table.print(["nginx", "mirror"], "nginx")


def _slow_readers(table: Table, server: Server) -> None:
    """500 clients that take 256 KiB a second each, for five seconds."""
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(500):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            one.connect(("127.0.0.1", server.port))
            one.sendall(_get())
            one.setblocking(False)  # noqa: FBT003
            readers.append(one)
        buffer = bytearray(_SLOW_RATE // 10)
        time.sleep(0.5)
        cpu, started, most = server.cpu(), time.perf_counter(), 0.0
        for tick in range(50):
            for one in readers:
                with contextlib.suppress(BlockingIOError):
                    one.recv_into(buffer)
            most = max(most, server.memory())
            time.sleep(max(0.0, started + (tick + 1) / 10 - time.perf_counter()))
        seconds = time.perf_counter() - started
        table.add("500 slow readers: RSS, MiB", server.name, most)
        table.add("500 slow readers: cores", server.name, (server.cpu() - cpu) / seconds)


def _head_beside(folder: Path, server: Server, clients: int, *, cold: bool) -> float:
    """The 99th percentile of a HEAD, in ms, one at a time, while others download."""
    if cold:
        with (folder / "big" / "model.bin").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with subprocess.Popen(
        [sys.executable, __file__, "--download", str(server.port), str(clients)]
    ) as downloads:
        time.sleep(0.3)
        path = f"{SMALL}/resolve/main/file-00.json"
        load = Load(Case("", 200, itertools.cycle([request("HEAD", path)])), 1.5, 100_000)
        _, _, p99, _ = uvloop.run(load.run(f"http://127.0.0.1:{server.port}", 1))
        downloads.terminate()
    return 1000 * p99


if __name__ == "__main__":
    if sys.argv[1:2] == ["--download"]:
        port, clients = map(int, sys.argv[2:])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            delete_garbage(port, [_get()] * clients)
    elif shutil.which("nginx") is None:
        sys.exit("nginx is not installed: apt-get install nginx-light.")
    else:
        main()
