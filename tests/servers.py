"""A real server on a real socket, in a thread of the test."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from mirror.web.protocol import Protocol


@contextlib.contextmanager
def run_server(app: ASGIApp, **options: Any) -> Iterator[str]:
    """Serve the app on a free port of loopback; yields its base URL. `options` are uvicorn's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = {"http": Protocol, **options}
        config = uvicorn.Config(
            app, ws="none", log_config=None, access_log=False, proxy_headers=False, **options
        )
        server = uvicorn.Server(config)
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
            server.should_exit = True
            thread.join(10)
