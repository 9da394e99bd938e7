"""A real sshd on loopback, whose only user is the one who runs the tests."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import until

_SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")

needs_sshd = pytest.mark.skipif(
    _SSHD is None or shutil.which("ssh") is None or shutil.which("rsync") is None,
    reason="sshd, ssh or rsync is not installed: apt-get install openssh-server rsync",
)


@dataclass(frozen=True)
class Host:
    """`name` is what stands before the colon of a destination, and `options` those of rsync."""

    name: str
    options: tuple[str, ...]


def make_key(path: Path) -> Path:
    """A key pair without a passphrase; its private key."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(words, check=True)
    return path


@contextlib.contextmanager
def run_sshd(folder: Path) -> Iterator[Host]:
    folder.mkdir()
    user, host = make_key(folder / "user"), make_key(folder / "host")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host}\nAuthorizedKeysFile {user}.pub\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    assert _SSHD is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([_SSHD, "-D", "-e", "-f", config], stderr=log)
    ssh = (
        f"ssh -p {port} -i {user} -F none -o BatchMode=yes -o StrictHostKeyChecking=no "
        "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    )
    try:
        until(lambda: _answers(port))
        yield Host(f"{getpass.getuser()}@127.0.0.1", ("-e", ssh))
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as one:
        return one.recv(4) == b"SSH-"
    return False
