"""What the default client gets: from nginx, from the mirror by HTTP, from the mirror by Xet.

`hf download`, of the huggingface_hub in this environment, fetches one file and a snapshot of eight
files into a folder in memory. Runs alternate between the three; medians and ratios to nginx are
printed as Markdown. In a second part each answer is limited to a rate, by an nginx in front of all,
which is what a long or shared link does to a connection. In a third the size of the file varies:
it shows from which size on Xet is worth its requests (`[xet] min_size`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from servers import Server, Table, free_port, started, until_200

MIB = 1 << 20
SIZES = (1, 2, 4, 8, 16, 32, 64)
NAMES = ["nginx", "mirror", "mirror, Xet"]


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="hubmirror-xet-") as name:
        folder = Path(name)
        repos = {"file": [2048], "snapshot": [512] * 8, "limited": [300]}
        repos |= {f"size-{size}": [size] for size in SIZES}
        for repo, sizes in repos.items():
            make_repo(folder / repo, sizes)
        print(f"{os.cpu_count()} cores, {options.rounds} rounds\n")
        with servers(folder, list(repos)) as three:
            print("### One file of 2 GiB, and eight of 512 MiB\n")
            compare(three, {"file": 2048, "snapshot": 4096}, options.rounds)
            print("\n### Each answer at 25 MiB/s, one file of 300 MiB\n")
            with contextlib.ExitStack() as stack:
                slow = [stack.enter_context(limited(folder, one)) for one in three]
                compare(slow, {"limited": 300}, options.rounds)
            print("\n### Seconds by size, the start of the client included\n")
            sweep(three, options.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="for the files that are served: 8 GB")
    return parser.parse_args()


def make_repo(folder: Path, sizes: list[int]) -> None:
    folder.mkdir()
    for number, size in enumerate(sizes):
        block = os.urandom(MIB)
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            for count in range(size):
                file.write(count.to_bytes(8, "little") + block[8:])


@contextlib.contextmanager
def servers(folder: Path, repos: list[str]) -> Iterator[list[Server]]:
    (folder / "data").mkdir()
    with (
        mirror(folder, repos, "--no-xet") as plain,
        nginx(folder, repos, plain) as first,
        mirror(folder, repos, "--xet-min-size", "0") as by_xet,
    ):
        for repo in repos:
            for file in sorted((folder / repo).iterdir()):
                _until_offered(by_xet, f"/org/{repo}/resolve/main/{file.name}")
        by_xet.name = NAMES[2]
        yield [first, plain, by_xet]


@contextlib.contextmanager
def mirror(folder: Path, repos: list[str], *more: str) -> Iterator[Server]:
    port = free_port()
    words = ["serve", "--port", str(port), "--data", f"{folder}/data", *more]
    for repo in repos:
        words += ["--source", f"folder:{folder}/{repo}=org/{repo}"]
    with started([sys.executable, "-m", "mirror", *words], "mirror", port) as one:
        for repo in repos:
            until_200(port, f"/org/{repo}/resolve/main/model-0.safetensors")
        yield one


@contextlib.contextmanager
def nginx(folder: Path, repos: list[str], like: Server) -> Iterator[Server]:
    """nginx with the same files, and with the mirror's JSON as files too."""
    port, conf, places = free_port(), folder / "nginx.conf", ""
    for repo in repos:
        info = f"/api/models/org/{repo}/revision/main"
        body = _get(like, info)
        commit = body.partition(b'"sha":"')[2][:40].decode()
        tree = f"/api/models/org/{repo}/tree/{commit}"
        for path, text in ((info, body), (tree, _get(like, f"{tree}?recursive=true"))):
            file = folder / "www" / path[1:]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
        places += f"""
          location /org/{repo}/resolve/ {{
            rewrite ^/org/[^/]+/resolve/[^/]+/(.*)$ /{repo}/$1 break;
            root {folder}; add_header X-Repo-Commit {commit};
          }}"""
    conf.write_text(f"""
        daemon off; user root; worker_processes 2; pid {conf}.pid; error_log /dev/null;
        events {{ worker_connections 1024; }}
        http {{
          sendfile on; tcp_nopush on; access_log /dev/null; default_type application/octet-stream;
          server {{ listen 127.0.0.1:{port}; root {folder}/www; {places} }}
        }}""")
    with started(["nginx", "-p", str(folder), "-c", str(conf)], "nginx", port) as one:
        yield one


@contextlib.contextmanager
def limited(folder: Path, behind: Server) -> Iterator[Server]:
    """The same server behind an nginx that sends each answer at 25 MiB/s."""
    port, conf = free_port(), folder / f"limited-{behind.port}.conf"
    conf.write_text(f"""
        daemon off; user root; worker_processes 2; pid {conf}.pid; error_log /dev/null;
        events {{ worker_connections 1024; }}
        http {{
          access_log /dev/null;
          server {{
            listen 127.0.0.1:{port};
            location / {{
              proxy_pass http://127.0.0.1:{behind.port}; proxy_set_header Host $http_host;
              proxy_http_version 1.1; proxy_max_temp_file_size 0; limit_rate 25m;
            }}
          }}
        }}""")
    with started(["nginx", "-p", str(folder), "-c", str(conf)], behind.name, port) as one:
        yield Server(behind.name, behind.pid, one.port)


def _get(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as answer:
        return bytes(answer.read())


def _until_offered(server: Server, path: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        head = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method="HEAD")
        with urllib.request.urlopen(head) as answer:
            if "x-xet-hash" in answer.headers:
                return
        if time.monotonic() > deadline:
            sys.exit(f"The xet hash of {path} was not computed.")
        time.sleep(0.2)


def compare(three: list[Server], repos: dict[str, int], rounds: int) -> None:
    table = Table()
    for _ in range(rounds):
        for repo, mib in repos.items():
            for server in three:
                cpu = server.cpu()
                seconds, memory = download(server, repo)
                table.add(f"{repo}: MiB/s", server.name, mib / seconds)
                cpu = (server.cpu() - cpu) / (mib / 1024)
                table.add(f"{repo}: server CPU s/GiB", server.name, cpu)
                table.add(f"{repo}: client's memory, MiB", server.name, memory)
    table.print(NAMES, NAMES[0])


def sweep(three: list[Server], rounds: int) -> None:
    table = Table()
    for _ in range(rounds):
        for size in SIZES:
            for server in three:
                table.add(f"{size} MiB", server.name, download(server, f"size-{size}")[0])
    table.print(NAMES, NAMES[0])


def download(server: Server, repo: str) -> tuple[float, float]:
    """Seconds, and the most memory that the client had, in MiB."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hubmirror-client-") as home:
        began = time.perf_counter()
        process = subprocess.Popen(
            [Path(sys.executable).with_name("hf"), "download", f"org/{repo}"],
            env={"HF_HOME": home, "HF_ENDPOINT": f"http://127.0.0.1:{server.port}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"hf download of org/{repo} from {server.name} failed.")
        return time.perf_counter() - began, usage.ru_maxrss / 1024


if __name__ == "__main__":
    if shutil.which("nginx") is None:
        sys.exit("nginx is not installed: apt-get install nginx-light.")
    main()
