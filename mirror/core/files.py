"""Functions that read untrusted files.

A name in a cache can be a FIFO, a device, or a symlink to one of these: `open` would block for
ever, and `read` would fill the memory. Code that reads a whole file uses `read_regular`, which has
a limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from functools import cache
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


_OUTAGES = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.EHOSTDOWN})


def is_outage(exc: OSError) -> bool:
    """Whether the whole disk or file server fails, and not only one file."""
    return exc.errno in _OUTAGES


@cache
def is_in_memory(device: int) -> bool:
    """Whether a device (`st_dev`) is a file system without a disk, as tmpfs."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return False
    for line in lines.splitlines():
        fields, _, kind = line.partition(" - ")
        if fields.split(" ")[2:3] == [number]:
            return kind.partition(" ")[0] in ("tmpfs", "ramfs")
    return False


def open_regular(path: str | Path, *, follow: bool = True) -> int:
    """A descriptor of a regular file. The caller closes it.

    Raises OSError, also if the path is not a regular file. `follow` says whether the last part of
    the path can be a symlink.
    """
    descriptor = os.open(path, _FLAGS if follow else _FLAGS | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def set_mode(descriptor: int, mode: int) -> None:
    """Set the mode of an open file, unless its file system has no modes: CIFS, exFAT and the
    mounts of object stores refuse."""
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, mode)


def read_regular(path: str | Path, max_bytes: int, *, follow: bool = True) -> bytes:
    """The content of a regular file. Raises OSError, also if it is longer than `max_bytes`."""
    with open(open_regular(path, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Python allocates the size before it reads. A file that grows meanwhile has one byte more.
        body = file.read(size + 1) if size <= max_bytes else b""
    if max(size, len(body)) > max_bytes:
        raise OSError(errno.EFBIG, f"it is longer than {max_bytes} bytes", str(path))
    return body


def inside(path: Path, folder: Path) -> Path | None:
    """The real path, if it is inside the real path of the folder; else None."""
    real = path.resolve()
    return real if real.is_relative_to(folder.resolve()) else None


def folder_size(folder: Path) -> int:
    """The size of the regular files below a folder, in bytes. Unreadable folders are skipped."""
    size, pending = 0, [str(folder)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
    return size


def special_file(folder: Path, max_depth: int = 100) -> str:
    """The first path below a folder that can block or stop a program that opens all files: a FIFO,
    a device, a socket, a symlink to one of these, or a folder that is too deep. Empty if there is
    none. Raises OSError."""
    pending = [(str(folder), 0)]
    while pending:
        path, depth = pending.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if depth == max_depth:
                        return entry.path
                    pending.append((entry.path, depth + 1))
                elif not (entry.is_file() or entry.is_dir() or _is_dangling(entry)):
                    return entry.path
    return ""


def _is_dangling(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything below it. Files that cannot be removed stay."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:  # Python before 3.12, for folders of a thousand levels
        subprocess.run(["rm", "-rf", "--", folder], check=False)  # noqa: S603, S607
