"""The state folder: facts derived from the sources, kept so that they are computed once.

One small JSON file a fact, replaced atomically: any number of processes may share the folder, on
NFS too, and all of it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

_LOCK_STEP = 0.1  # seconds between two tries


class State:
    """A store of JSON facts by kind and key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, kind: str, key: str) -> Any | None:
        """The fact, or None where none is kept or it cannot be read."""
        try:
            return orjson.loads(self._path(kind, key).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None

    def put(self, kind: str, key: str, fact: Any) -> None:
        """Keep a fact. A full or read-only disk only costs computing it again."""
        path = self._path(kind, key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, orjson.dumps(fact))

    @contextlib.contextmanager
    def lock(self, name: str, give_up: threading.Event) -> Iterator[None]:
        """Hold a lock among all processes that share the folder (none where it is read-only).

        Goes on without it once `give_up` is set.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / f"{name}.lock").open("w")
        except OSError:
            yield
            return
        with file:
            while not try_lock(file) and not give_up.wait(_LOCK_STEP):
                pass
            yield

    def _path(self, kind: str, key: str) -> Path:
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        return self.folder / kind / name[:2] / f"{name[2:]}.json"


def try_lock(file: IO[str]) -> bool:
    """Lock an open file among all processes, unless somebody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, body: bytes) -> None:
    """Write a file under a temporary name beside it, sync it to disk, and rename it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
