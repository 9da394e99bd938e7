"""Unmodified vLLM, told nothing but HF_ENDPOINT: time to the first token, beside a local folder.

usage: first_token.py MODEL_FOLDER [--rounds 2]

It serves the folder by `hubmirror serve` on loopback, starts `vllm serve` by repo id with an empty
cache, asks for a chat completion as a stream, and ends it; then the same with the folder's path.
Rounds alternate. The bytes that came, and by which routes, are read from the mirror's log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

MIRROR, VLLM = 8400, 8000
REPO = "org/random"
_TIMEOUT_S = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {"local folder": [], "mirror": []}
    with tempfile.TemporaryDirectory(prefix="hubmirror-gpu-") as name:
        work = Path(name)
        log = work / "mirror.log"
        with log.open("w") as out:
            mirror = subprocess.Popen(
                [
                    sys.executable, "-m", "mirror", "serve", "--data", str(work), "--port",
                    str(MIRROR), "--source", f"folder:{options.folder.absolute()}={REPO}",
                ],
                stdout=subprocess.DEVNULL, stderr=out,
            )  # fmt: skip
        try:
            wait(f"http://127.0.0.1:{MIRROR}/readyz", mirror)
            wait_for_hashes(options.folder)
            for number in range(options.rounds):
                rows["mirror"].append(start(REPO, work / f"home-{number}"))
                rows["local folder"].append(start(str(options.folder), work / f"local-{number}"))
        finally:
            mirror.terminate()
            mirror.wait(20)
        report(rows, log.read_text())


def wait_for_hashes(folder: Path) -> None:
    """Until the weights are offered by Xet; some that are not are said."""
    for file in sorted(folder.glob("*.safetensors")):
        url = f"http://127.0.0.1:{MIRROR}/{REPO}/resolve/main/{file.name}"
        deadline = time.monotonic() + 120
        while True:
            if time.monotonic() > deadline:
                print(f"{file.name} is not offered by Xet.", file=sys.stderr)
                break
            request = urllib.request.Request(url, method="HEAD")
            # 503 while its digest is being computed.
            with (
                contextlib.suppress(urllib.error.HTTPError),
                urllib.request.urlopen(request, timeout=60) as answer,
            ):
                if "x-xet-hash" in answer.headers:
                    break
            time.sleep(0.5)


def start(model: str, home: Path) -> tuple[float, float]:
    """Seconds from the command to ready, and to the first token."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {
        **inherited,
        "HF_ENDPOINT": f"http://127.0.0.1:{MIRROR}",
        "HF_HOME": str(home),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
    }
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, "--port", str(VLLM),
        "--served-model-name", "it", "--enforce-eager", "--max-model-len", "2048",
        "--gpu-memory-utilization", "0.6",
    ]  # fmt: skip
    began = time.monotonic()
    with (home.with_suffix(".log")).open("w") as out:
        server = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait(f"http://127.0.0.1:{VLLM}/health", server, home.with_suffix(".log"))
        ready = time.monotonic() - began
        first_token()
        return ready, time.monotonic() - began
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def first_token() -> None:
    body = {
        "model": "it", "stream": True, "max_tokens": 8,
        "messages": [{"role": "user", "content": "Hello"}],
    }  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{VLLM}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                return
    sys.exit("vLLM answered without a token.")


def wait(url: str, process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = log.read_text()[-3000:] if log else ""
            sys.exit(f"{process.args!r} ended with status {process.returncode}.\n{tail}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    sys.exit(f"{url} did not answer within {_TIMEOUT_S} s.")


def report(rows: dict[str, list[tuple[float, float]]], log: str) -> None:
    print("| weights from | ready, s | first token, s |\n| --- | --: | --: |")
    for name, times in rows.items():
        ready, token = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {name} | {ready:.1f} | {token:.1f} |")
    routes: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    for match in re.finditer(r" (GET|HEAD|POST) (\S+) (\d+) \S+ (\d+)B ", log):
        kind = "Xet blocks" if "/blocks/" in match[2] else f"{match[1]} {match[3]}"
        routes[kind] += 1
        sent[kind] += int(match[4])
    for kind, count in routes.most_common():
        print(f"{kind}: {count} requests, {sent[kind] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
