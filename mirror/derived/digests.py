"""Unknown digests of files: computed once, in the background, and stored.

A digest is stored in the state folder under the path of the file. It is valid until the size or the
mtime of the file changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import logging
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mirror.core.errors import BlobUnreadableError, DigestPendingError
from mirror.core.files import open_regular
from mirror.core.tree import git_blob_hash, is_etag
from mirror.derived.state import State

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("hubmirror")

_CHUNK = 1 << 20
_STOPPING = "the mirror is stopping"
_RETRY_AFTER_S = 60.0  # seconds before a failed file is tried again
_STEP = 0.2  # seconds: longer than another process needs to notice that the lock is free
# huggingface_hub refuses to fetch more than this without Xet (`MAX_HTTP_DOWNLOAD_SIZE`).
_MAX_HTTP_SIZE = 50_000_000_000
_URGENT, _HUGE = 1, 2  # ranks of xet hashes
_FIRST = "first"
"""The lock of a process whose next file is urgent: a request waits for its digest, or only Xet can
serve the file."""

# The process ends when the pipe to its parent closes. It writes no log into the user's cache.
_XET_HASH = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
os.environ["HF_XET_LOG_DEST"] = os.devnull
os.nice(10)
import hf_xet
print(hf_xet.hash_files(sys.argv[1:])[0].hash)
"""
_XET_FORM = re.compile(r"[0-9a-f]{64}")

Kind = Literal["git-sha1", "sha256", "xet"]


@dataclass(frozen=True, slots=True)
class DigestJob:
    """A digest to compute: of the file at `location`, which has `size` and `mtime_ns`."""

    location: str
    size: int
    mtime_ns: int
    kind: Kind

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.location}"

    @property
    def rank(self) -> int:
        """The priority; lower comes first. Etags come first, then urgent xet hashes, then xet
        hashes of files that only Xet can serve, then the rest."""
        return 0 if self.kind != "xet" else _HUGE if self.size > _MAX_HTTP_SIZE else _HUGE + 1


def _is_digest(fact: Any, kind: Kind) -> bool:
    """Whether a fact from the state folder has the form that `_compute_next` writes."""
    if not isinstance(fact, list) or len(fact) not in (3, 4):
        return False
    size, mtime_ns, digest = fact[:3]
    length = 40 if kind == "git-sha1" else 64
    return type(size) is int and type(mtime_ns) is int and is_etag(digest) and len(digest) == length


def _fact_of(one: DigestJob, digest: str) -> list[Any]:
    """The fact for the state folder. It contains the path, so that `is_needed` can check whether
    the file still exists. The bytes of the path are stored as Latin-1, because a path is not always
    UTF-8."""
    return [one.size, one.mtime_ns, digest, os.fsencode(one.location).decode("latin-1")]


def is_needed(fact: Any) -> bool:
    """Whether the file of a digest still exists and has not changed."""
    try:
        size, mtime_ns, _, location = fact
        found = os.lstat(location.encode("latin-1"))
    except (AttributeError, OSError, TypeError, ValueError):
        return False
    return (found.st_size, found.st_mtime_ns) == (size, mtime_ns)


def _outcome(future: Future[str]) -> str | BlobUnreadableError:
    error = future.exception()
    return error if isinstance(error, BlobUnreadableError) else future.result()


class Digests:
    """Computes digests one file at a time for all processes that share a state folder."""

    def __init__(self, state: State, *, timeout_s: float = 5.0) -> None:
        """`timeout_s` is the maximum time in seconds that a caller of `of` waits."""
        self.state = state
        self._timeout_s = timeout_s
        self._known: dict[str, tuple[int, int, str]] = {}
        self._running: dict[DigestJob, Future[str]] = {}
        self._failed: dict[DigestJob, tuple[float, Future[str] | None]] = {}
        self._queue: list[tuple[int, int, DigestJob]] = []
        self._queued: set[tuple[int, DigestJob]] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def of(self, name: str, wanted: Iterable[DigestJob]) -> list[str]:
        """The digests, in order, as hex.

        Raises DigestPendingError, with `name` in its message, if they take longer than the timeout;
        the work continues. Raises BlobUnreadableError if a file cannot be read.
        """
        digests = self.each(name, wanted)
        for one in digests:
            if isinstance(one, BlobUnreadableError):
                raise one
        return [str(one) for one in digests]

    def each(self, name: str, wanted: Iterable[DigestJob]) -> list[str | BlobUnreadableError]:
        """The same as `of`, but with an error instead of the digest if a file cannot be read."""
        wanted = list(wanted)
        digests = {one: self.known(one) for one in wanted}
        unknown = [one for one, digest in digests.items() if digest is None]
        futures = {one: self.start(one) for one in unknown}
        wait(futures.values(), timeout=self._timeout_s)
        remaining = sum(one.size for one, future in futures.items() if not future.done())
        if not all(future.done() for future in futures.values()):
            raise DigestPendingError(name, remaining)
        return [digests[one] or _outcome(futures[one]) for one in wanted]

    def known(self, one: DigestJob) -> str | None:
        """The digest, if it was computed before."""
        kept = self._known.get(one.key)
        if kept is None or kept[:2] != (one.size, one.mtime_ns):
            fact = self.state.get("digests", one.key)  # another process may have computed it
            if fact is None or not _is_digest(fact, one.kind):
                return None
            kept = self._known[one.key] = (fact[0], fact[1], fact[2])
        return kept[2] if kept[:2] == (one.size, one.mtime_ns) else None

    def start(self, one: DigestJob, *, urgent: bool = False) -> Future[str]:
        """Start to compute a digest. `urgent` means that a request waits for it. A failed job is
        not tried again for `_RETRY_AFTER_S` seconds."""
        with self._changed:
            until, failed = self._failed.get(one, (0.0, None))
            if failed is not None and time.monotonic() < until:
                return failed
            future = self._running.get(one)
            if future is None:
                future = self._running[one] = Future()
            elif not urgent:
                return future
            rank = min(one.rank, _URGENT) if urgent else one.rank
            if (rank, one) not in self._queued:
                self._queued.add((rank, one))
                heapq.heappush(self._queue, (rank, next(self._numbers), one))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="digests", daemon=True)
                self._thread.start()
            self._changed.notify()
            return future

    def close(self) -> None:
        """Stop the running work. Finished digests stay stored."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed.is_set())
            self._take_turn()
            if self._queue:
                self._closed.wait(_STEP if self._queue[0][0] else 0)
        for future in self._running.values():
            future.set_exception(BlobUnreadableError("A file", _STOPPING))

    def _take_turn(self) -> None:
        """Compute one digest, unless another process has a more urgent one."""
        if self._queue and self._queue[0][0] <= _HUGE:
            with (
                self.state.lock(_FIRST, self._closed),
                self.state.lock(State.MAIN, self._closed),
            ):
                self._compute_next()
            return
        with self.state.lock(State.MAIN, self._closed):
            if not self.state.is_locked(_FIRST):
                self._compute_next()

    def _compute_next(self) -> None:
        """Compute the most urgent digest now. The queue can have changed during the wait for the
        lock."""
        with self._changed:
            if not self._queue or self._closed.is_set():
                return
            rank, _, one = heapq.heappop(self._queue)
            self._queued.discard((rank, one))
        future = self._running.get(one)
        if future is None:
            return
        self._known.pop(one.key, None)
        try:
            digest = self.known(one) or self._compute(one)
        except Exception as exc:
            error = exc
            if not isinstance(exc, BlobUnreadableError):
                log.exception("A digest could not be computed.")
                error = BlobUnreadableError(os.path.basename(one.location), "its digest failed")
            future.set_exception(error)
            self._failed[one] = (time.monotonic() + _RETRY_AFTER_S, future)
        else:
            self._known[one.key] = (one.size, one.mtime_ns, digest)
            self.state.put("digests", one.key, _fact_of(one, digest))
            future.set_result(digest)
        with self._changed:
            del self._running[one]

    def _compute(self, one: DigestJob) -> str:
        name = os.path.basename(one.location)
        try:
            digest = self._xet_hash(one) if one.kind == "xet" else self._digest(one)
            now = os.stat(one.location)
        except OSError as exc:
            raise BlobUnreadableError(name, exc.strerror or "it cannot be read") from exc
        if (now.st_size, now.st_mtime_ns) != (one.size, one.mtime_ns):
            raise BlobUnreadableError(name, "it changed while it was read")
        return digest

    def _digest(self, one: DigestJob) -> str:
        running = hashlib.sha256() if one.kind == "sha256" else git_blob_hash(one.size)
        with open(open_regular(one.location), "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                running.update(chunk)
                if self._closed.is_set():
                    raise BlobUnreadableError(os.path.basename(one.location), _STOPPING)
        return running.hexdigest()

    def _xet_hash(self, one: DigestJob) -> str:
        """Compute the xet hash with hf_xet in a separate process, because hf_xet uses all cores and
        cannot be interrupted."""
        command = [sys.executable, "-I", "-c", _XET_HASH, one.location]
        with subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STEP)
                if self._closed.is_set():
                    process.kill()
            digest = process.stdout.read().strip() if process.stdout else ""
        if process.returncode or not _XET_FORM.fullmatch(digest):
            raise BlobUnreadableError(os.path.basename(one.location), "its hash was not computed")
        return digest
