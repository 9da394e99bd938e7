"""The program that `closed_network` starts: it enters a new network namespace, opens the socket
that the mirror listens on, sends it to hubmirror, waits until the mirror serves, and becomes the
command.

It imports nothing of hubmirror, because Python runs it in isolated mode. Its arguments are the
descriptor of a Unix socket, a port and the command.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # linux/sched.h
_GET_FLAGS, _SET_FLAGS, _IS_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h


def enter() -> None:
    """Enter a new network namespace: with a right of root, or in a new user namespace. Raises
    OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError("this system is not Linux")
    if libc.unshare(_NEW_NETWORK) == 0:
        return
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEW_USER | _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{user} {user} 1")
    (own / "gid_map").write_text(f"{group} {group} 1")


def bring_up_loopback() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _IS_UP))


def main(channel: socket.socket, port: int, command: list[str]) -> None:
    with channel:
        try:
            enter()
            bring_up_loopback()
            listener = socket.create_server(("127.0.0.1", port), backlog=2048)
        except OSError as exc:
            channel.send((exc.strerror or str(exc)).encode())
            return
        with listener:
            socket.send_fds(channel, [b"opened"], [listener.fileno()])
        if not channel.recv(100):
            return  # hubmirror has given up
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:])
