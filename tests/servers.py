"""Real servers on real sockets: in a thread of the test, or as a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx2
import uvicorn
from starlette.types import ASGIApp

from mirror.server.uvicorn_protocol import Protocol


class _Server(uvicorn.Server):
    """Stops at once, where uvicorn waits up to 0.2 s: thousands of tests start a server."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Called from another thread."""
        self.should_exit = True
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for _ in range(20):
            if not (self.server_state.connections or self.server_state.tasks):
                break
            await asyncio.sleep(0.001)
        else:
            await super().shutdown(sockets)
            return
        for listening in self.servers:
            listening.close()
        for one in sockets or []:
            one.close()
        await self.lifespan.shutdown()


@contextlib.contextmanager
def run_server(app: ASGIApp, **options: Any) -> Iterator[str]:
    """Serve the app on a free port of loopback; yields its base URL. `options` are uvicorn's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = {"http": Protocol, "timeout_graceful_shutdown": 1, **options}
        config = uvicorn.Config(
            app, ws="none", log_config=None, access_log=False, proxy_headers=False, **options
        )
        server = _Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.stop()
            thread.join(10)


@contextlib.contextmanager
def slow_sockets(port: int | None) -> Iterator[Callable[[], socket.socket]]:
    """A function that connects to a server, with a small buffer, so that the server must wait for
    its reader."""
    with contextlib.ExitStack() as opened:

        def connect() -> socket.socket:
            one = opened.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            one.settimeout(20)
            one.connect(("127.0.0.1", port))
            return one

        yield connect


@dataclass(frozen=True)
class Command:
    """A running `hubmirror serve`, and the URL that it printed."""

    process: subprocess.Popen[str]
    url: str


@contextlib.contextmanager
def run_command(
    folder: Path, *words: str, under: Sequence[str] = (), errors: IO[str] | int = subprocess.DEVNULL
) -> Iterator[Command]:
    """`hubmirror serve` in a process of its own, on a free port, started in `folder`; `under`
    another command, where one is given. `errors` gets its log."""
    command = [*under, sys.executable, "-m", "mirror", "serve", "--port", "0", *words]
    environment = {name: text for name, text in os.environ.items() if "HUBMIRROR" not in name}
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if "HF_ENDPOINT=" in line)
        url = line.strip().partition("=")[2]
        _wait_until_ready(url)
        yield Command(process, url)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/readyz").status_code == 200:
                return
        if time.monotonic() > deadline:
            raise RuntimeError("the server did not become ready")
        time.sleep(0.05)
