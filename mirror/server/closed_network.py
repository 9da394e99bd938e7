"""Runs a command in a network in which nothing but the mirror can be reached.

A socket belongs to the network namespace in which it was opened. So the server itself stays
outside, where it can reach its disks and its upstream, and serves on a socket of the closed
network.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.core.errors import ConfigError
from mirror.server import enter_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PORT = 8400  # free: the namespace is new
URL = f"http://127.0.0.1:{_PORT}"
"""The address of the mirror in a closed network."""

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ClosedNetwork:
    """A process in a closed network that waits before it becomes the command."""

    listener: socket.socket
    _process: subprocess.Popen[bytes]
    _channel: socket.socket

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command."""
        self._channel.send(b"start")
        return self._process


@contextlib.contextmanager
def closed_network(command: Sequence[str], env: Mapping[str, str]) -> Iterator[ClosedNetwork]:
    """A closed network, and the socket to serve on in it. Raises ConfigError where the machine
    cannot have one."""
    ours, theirs = socket.socketpair()
    ours.settimeout(_TIMEOUT_S)
    descriptor = theirs.fileno()
    program = [sys.executable, "-I", enter_network.__file__, str(descriptor), str(_PORT), *command]
    with ours, theirs:
        process = subprocess.Popen(program, env=dict(env), pass_fds=[descriptor])  # noqa: S603
        theirs.close()
        try:
            with _listener(ours) as listener:
                yield ClosedNetwork(listener, process, ours)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def _listener(channel: socket.socket) -> socket.socket:
    """The listening socket that the process sends."""
    try:
        said, descriptors, *_ = socket.recv_fds(channel, 1000, 1)
    except OSError as exc:
        said, descriptors = str(exc).encode(), []
    if not descriptors:
        raise ConfigError(
            f"The network cannot be closed: {said.decode() or 'the process ended'}. --closed needs "
            "Linux, and root or unprivileged user namespaces (the sysctl "
            "user.max_user_namespaces, and kernel.unprivileged_userns_clone or "
            "kernel.apparmor_restrict_unprivileged_userns where the system has them). A container "
            "needs the capability SYS_ADMIN."
        )
    return socket.socket(fileno=descriptors[0])
