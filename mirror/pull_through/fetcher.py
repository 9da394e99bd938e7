"""Fetches partial files from upstream by a bounded number of connections."""

from __future__ import annotations

import errno
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.core.errors import CorruptBlobError, UpstreamError, UpstreamFailure
from mirror.core.units import human
from mirror.pull_through.fill import Fill
from mirror.pull_through.metrics import RECEIVED
from mirror.pull_through.partial_blob import PartialPaths
from mirror.sync.ranges import RangeReader
from mirror.sync.upstream import is_temporary

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.core.tree import RepoFile
    from mirror.pull_through.fill import Run
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache
    from mirror.sync.upstream import Head, Upstream

log = logging.getLogger("hubmirror")

MAX_CONNECTIONS = 16
_POLL_INTERVAL_S = 0.05
_MAX_FAILURES = 6
_LONGEST_PAUSE_S = 30.0
_KEEP_ERROR_S = 10.0
_REFUSED_S = 900.0
"""How long a file is refused whose bytes did not match: longer than clients retry."""

_UNREQUESTED_S = 30.0
"""With finish="while-asked": a fill stops when no reader has waited for so long."""


@dataclass(frozen=True, slots=True)
class Job:
    """A file of a commit to fetch. `accepted` is called when its blob is in the cache."""

    upstream: Upstream
    head: Head
    folder: RepoDir
    file: RepoFile
    accepted: Callable[[], None]

    @property
    def key(self) -> tuple[str, str]:
        return self.folder.repo.key, self.file.etag


class Fetcher:
    """The fills that are under way, and the threads that fetch them."""

    def __init__(self, cache: Cache, *, finish_always: bool = True) -> None:
        self._cache = cache
        self._finish_always = finish_always
        self._fills: dict[tuple[str, str], tuple[Job, Fill]] = {}
        self._errors: dict[tuple[str, str], tuple[float, UpstreamError]] = {}
        self._pause_until: dict[str, float] = {}
        self._changed = threading.Condition()
        self._closed = False
        self.received = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"fetch-{number}", daemon=True)
            for number in range(MAX_CONNECTIONS)
        ]
        for thread in self._threads:
            thread.start()

    def request(self, job: Job, offset: int) -> None:
        """A reader waits for a byte of a file: fetch it first. Returns at once.

        Raises the UpstreamError with which the file failed a moment ago.
        """
        with self._changed:
            until, error = self._errors.get(job.key, (0.0, None))
            if error is not None and time.monotonic() < until:
                raise error
            self._errors.pop(job.key, None)
            running = self._fills.get(job.key)
            if running is not None and running[1].error is not None:
                raise running[1].error
            if running is None:
                if self._cache.has(job.folder, job.file):
                    self._drop_leftovers(job)
                    return
                self._fills[job.key] = (job, self._open(job))
            fill = self._fills[job.key][1]
            fill.request(offset)
            self._changed.notify()

    def pause(self, endpoint: str, seconds: float) -> None:
        """Send no request to an upstream for some seconds: it asks for that (429)."""
        until = time.monotonic() + seconds
        with self._changed:
            self._pause_until[endpoint] = max(until, self._pause_until.get(endpoint, 0.0))

    def paused_s(self, endpoint: str) -> float:
        """For how many more seconds no request is sent to an upstream; 0 if it is not paused."""
        return max(0.0, self._pause_until.get(endpoint, 0.0) - time.monotonic())

    def running(self) -> list[tuple[Job, Fill]]:
        with self._changed:
            return list(self._fills.values())

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _paths(self, job: Job) -> PartialPaths:
        return PartialPaths.of(self._cache.work_dir, job.folder.repo.folder_name, job.file.etag)

    def _open(self, job: Job) -> Fill:
        try:
            return Fill(
                job.file,
                self._paths(job),
                RangeReader(job.upstream, job.head, job.file),
                self._note_received,
            )
        except (OSError, ValueError) as exc:
            raise _disk_error(job, exc) from exc

    def _note_received(self, count: int) -> None:
        with self._changed:
            self.received += count
        RECEIVED.inc(count)

    def _drop_leftovers(self, job: Job) -> None:
        """Remove the map of a file whose filler ended after the blob was accepted."""
        paths = self._paths(job)
        paths.map.unlink(missing_ok=True)
        paths.content.unlink(missing_ok=True)

    def _work(self) -> None:
        while not self._closed:
            with self._changed:
                taken = self._take()
                if taken is None:
                    self._changed.wait(_POLL_INTERVAL_S if self._fills else None)
                    continue
            job, fill, run = taken
            try:
                if run is not None:
                    self._fetch(job, fill, run)
                else:
                    self._finish(job, fill)
            except Exception:
                log.exception("A file could not be fetched.")
                self._fail(job, fill, UpstreamError(f"{job.file.path} could not be fetched."))
            self._release(job, fill)

    def _take(self) -> tuple[Job, Fill, Run | None] | None:
        """The next blocks to fetch, of the file that a reader requested last; no blocks if all
        have arrived."""
        ordered = sorted(self._fills.values(), key=lambda one: -one[1].requested_at)
        for job, fill in ordered:
            if fill.is_finishing or fill.error is not None:
                continue
            if fill.is_idle and fill.is_fetched:
                fill.is_finishing = True
                return job, fill, None
            if self.paused_s(job.upstream.endpoint):
                continue
            idle_s = time.monotonic() - fill.requested_at
            if not self._finish_always and idle_s > _UNREQUESTED_S and fill.is_idle:
                del self._fills[job.key]
                fill.close()
                continue
            if run := fill.take():
                return job, fill, run
        return None

    def _release(self, job: Job, fill: Fill) -> None:
        """Forget a fill that has failed, after its last thread."""
        with self._changed:
            is_done = fill.error is not None and fill.is_idle
            if is_done and self._fills.get(job.key, (None, None))[1] is fill:
                del self._fills[job.key]
                fill.close()

    def _fetch(self, job: Job, fill: Fill, run: Run) -> None:
        try:
            fill.fetch(run)
        except CorruptBlobError as exc:
            self._refuse(job, fill, exc)
            return
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
                self._fail(job, fill, _disk_error(job, exc))
            else:
                self._retry(job, fill, exc)
        except Exception as exc:  # noqa: BLE001  # hf_xet raises RuntimeError
            self._retry(job, fill, exc)

    def _retry(self, job: Job, fill: Fill, exc: Exception) -> None:
        """Try again after a pause, unless the failure is permanent or the last one."""
        upstream, head = job.upstream, job.head
        error = (
            exc
            if isinstance(exc, UpstreamError)
            else upstream.error_of(head.repo, head.commit_hash, exc)
        )
        fill.failures += 1
        if error.failure is UpstreamFailure.BUSY:
            self.pause(upstream.endpoint, error.retry_after or 1.0)
            log.warning("%s", error)
            return
        if not (isinstance(exc, UpstreamError) or is_temporary(exc)) or (
            fill.failures >= _MAX_FAILURES
        ):
            self._fail(job, fill, error)
            return
        pause = max(error.retry_after, min(_LONGEST_PAUSE_S, 0.25 * 2**fill.failures))
        fill.not_before = time.monotonic() + pause
        log.warning("%s Trying again in %.0f s.", error, pause)

    def _refuse(self, job: Job, fill: Fill, exc: CorruptBlobError) -> None:
        error = UpstreamError(
            f"{job.folder.repo} at {job.head.commit_hash}: {exc} {job.upstream.endpoint} sent "
            "wrong bytes. They were removed, and the file is refused for "
            f"{_REFUSED_S / 60:.0f} minutes."
        )
        self._fail(job, fill, error, _REFUSED_S)

    def _fail(
        self, job: Job, fill: Fill, error: UpstreamError, keep_s: float = _KEEP_ERROR_S
    ) -> None:
        log.error("%s", error)
        now = time.monotonic()
        with self._changed:
            fill.error = error
            self._errors = {key: one for key, one in self._errors.items() if one[0] > now}
            self._errors[job.key] = (now + keep_s, error)

    def _finish(self, job: Job, fill: Fill) -> None:
        try:
            found = fill.check()
            self._cache.accept(job.folder, job.file, fill.paths.content, found=found)
            fill.paths.map.unlink(missing_ok=True)
        except CorruptBlobError as exc:
            self._refuse(job, fill, exc)
        except OSError as exc:
            self._fail(job, fill, _disk_error(job, exc))
        else:
            with self._changed:
                del self._fills[job.key]
            fill.close()
            log.info(
                "%s at %s: %s has arrived (%s).",
                job.folder.repo, job.head.commit_hash[:12], job.file.path, human(job.file.size),
            )  # fmt: skip
            job.accepted()


def _disk_error(job: Job, exc: OSError | ValueError) -> UpstreamError:
    cause = (exc.strerror if isinstance(exc, OSError) else "") or str(exc)
    return UpstreamError(
        f"{job.file.path} of {job.folder.repo} cannot be kept in this mirror: {cause}. Ask its "
        "operator to look at the disk."
    )
