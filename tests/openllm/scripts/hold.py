"""Open a network of our own (below `unshare --map-root-user --mount --net`): loopback comes up, the
names that are given are of it, and both last until standard input ends. Prints its process id."""

import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile

GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP (netdevice(7))
LAYOUT = "16sh14x"


def bring_loopback_up() -> None:
    with socket.socket() as any_socket:
        told = fcntl.ioctl(any_socket, GET_FLAGS, struct.pack(LAYOUT, b"lo", 0))
        flags = struct.unpack(LAYOUT, told)[1] | UP
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack(LAYOUT, b"lo", flags))


def name_loopback(names: list[str]) -> None:
    """Put a hosts file of our own over that of the machine, for this mount namespace."""
    with tempfile.NamedTemporaryFile("w") as hosts:
        hosts.writelines(f"127.0.0.1 {name}\n" for name in ("localhost", *names))
        hosts.flush()
        os.fchmod(hosts.fileno(), 0o644)
        subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)


bring_loopback_up()
name_loopback(sys.argv[1:])
sys.stdout.write(f"{os.getpid()}\n")
sys.stdout.flush()
sys.stdin.read()
