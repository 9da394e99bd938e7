"""A real nginx in front of the mirror, with the configuration that deploy/nginx gives."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.waiting import until

NGINX = shutil.which("nginx")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

_EXAMPLE = Path(__file__).parents[1] / "deploy" / "nginx" / "hubmirror.conf"


@contextmanager
def run_nginx(folder: Path, behind: str, log: str = "access_log off;") -> Iterator[str]:
    """Its URL; `behind` is the URL of the mirror, `log` says what nginx writes down of requests."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = _EXAMPLE.read_text().replace("listen 80;", f"listen 127.0.0.1:{port};")
    server = server.replace("127.0.0.1:8400", behind.removeprefix("http://"))
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    conf = folder / "nginx.conf"
    conf.write_text(
        f"daemon off; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;"
        f" events {{}} http {{ {log} {places} {server} }}"
    )
    command = [str(NGINX), "-p", str(folder), "-c", str(conf)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: _is_listening(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
