"""Reading of files that somebody else put there: regular files alone, and no more than a bound."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Opening a FIFO does not wait for its writer then.
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def read_regular(path: Path, most: int, *, follow: bool = False) -> bytes:
    """The bytes of a regular file. A symbolic link is opened only with `follow`.

    Raises OSError where it cannot be read, is no regular file, or has more than `most` bytes.
    """
    descriptor = os.open(path, _OPEN | (0 if follow else os.O_NOFOLLOW))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        body = file.read(most + 1)
    if len(body) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes")
    return body


def inside(path: Path, folder: Path) -> Path | None:
    """The real path, where it lies inside the real path of a folder; else None."""
    real = path.resolve()
    return real if real.is_relative_to(folder.resolve()) else None
