"""Digests of files that no cache has named: computed once, in the background, and kept.

A digest is kept in the state folder under the file's path, and holds as long as the file's size
and mtime do.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mirror.errors import BlobUnreadableError, DigestPendingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.state import State

_CHUNK = 1 << 20

Kind = Literal["git-sha1", "sha256"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A digest that somebody needs: of the file at `location`, which has `size` and `mtime_ns`."""

    location: str
    size: int
    mtime_ns: int
    kind: Kind

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.location}"


class Digests:
    """Computes digests one file at a time for all processes that share a state folder."""

    def __init__(self, state: State, *, patience: float = 5.0) -> None:
        """`patience` is how many seconds a caller of `of` waits at most."""
        self._state = state
        self._patience = patience
        self._known: dict[str, tuple[int, int, str]] = {}
        self._running: dict[Wanted, Future[str]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = ThreadPoolExecutor(1, "digests")

    def of(self, name: str, wanted: Iterable[Wanted]) -> list[str]:
        """The digests, in order, as hex.

        Raises DigestPendingError, naming `name`, where they take longer than the patience; the
        work goes on. Raises BlobUnreadableError where a file cannot be read.
        """
        wanted = list(wanted)
        digests = {one: self._recall(one) for one in wanted}
        unknown = [one for one, digest in digests.items() if digest is None]
        futures = {one: self._start(one) for one in unknown}
        wait(futures.values(), timeout=self._patience)
        remaining = sum(one.size for one, future in futures.items() if not future.done())
        if not all(future.done() for future in futures.values()):
            raise DigestPendingError(name, remaining)
        return [digests[one] or futures[one].result() for one in wanted]

    def close(self) -> None:
        """Stop the work under way; what was finished stays known."""
        self._closed.set()
        self._thread.shutdown(cancel_futures=True)

    def _recall(self, one: Wanted) -> str | None:
        kept = self._known.get(one.key)
        if kept is None:
            fact = self._state.get("digests", one.key)
            if not isinstance(fact, list) or len(fact) != 3:
                return None
            kept = self._known[one.key] = (fact[0], fact[1], fact[2])
        return kept[2] if kept[:2] == (one.size, one.mtime_ns) else None

    def _start(self, one: Wanted) -> Future[str]:
        with self._lock:
            if one not in self._running:
                self._running[one] = self._thread.submit(self._compute, one)
            return self._running[one]

    def _compute(self, one: Wanted) -> str:
        try:
            with self._state.lock("digests", self._closed):
                self._known.pop(one.key, None)
                digest = self._recall(one) or self._read(one)
            self._known[one.key] = (one.size, one.mtime_ns, digest)
            self._state.put("digests", one.key, [one.size, one.mtime_ns, digest])
            return digest
        finally:
            with self._lock:
                self._running.pop(one, None)

    def _read(self, one: Wanted) -> str:
        running = hashlib.sha256() if one.kind == "sha256" else _git_blob(one.size)
        name = os.path.basename(one.location)
        try:
            with open(one.location, "rb", buffering=0) as file:
                while chunk := file.read(_CHUNK):
                    running.update(chunk)
                    if self._closed.is_set():
                        raise BlobUnreadableError(name, "the mirror is stopping")
                now = os.fstat(file.fileno())
        except OSError as exc:
            raise BlobUnreadableError(name, exc.strerror or "it cannot be read") from exc
        if (now.st_size, now.st_mtime_ns) != (one.size, one.mtime_ns):
            raise BlobUnreadableError(name, "it changed while it was read")
        return running.hexdigest()


def _git_blob(size: int) -> hashlib._Hash:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
