"""Keeps the managed cache below a size: whole revisions leave, least recently read first."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from mirror.core.errors import NotFoundError
from mirror.core.files import folder_size
from mirror.core.units import duration, human
from mirror.maintenance.garbage import remove_revision
from mirror.openllm.closure import pinned_specs
from mirror.pull_through.last_reads import LastReads
from mirror.pull_through.pins import read_pins
from mirror.sync.completeness import read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mirror.core.repo import Repo
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache

log = logging.getLogger("hubmirror")

_IN_USE_S = 600.0
"""A revision that was read or pulled within this time stays."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision that may leave. `blobs` maps its etags to sizes in bytes; `last_read` is in
    seconds since 1970."""

    folder: RepoDir
    commit_hash: str
    blobs: dict[str, int]
    last_read: float

    @property
    def size(self) -> int:
        return sum(self.blobs.values())

    @property
    def text(self) -> str:
        """Why it leaves, for the operator."""
        age = duration(time.time() - self.last_read)
        return f"{self.folder.repo} at {self.commit_hash[:12]}: last read {age} ago"


@dataclass(frozen=True, slots=True)
class Eviction:
    """What leaves so that the cache is not larger than its limit. Sizes are in bytes; `freed` is
    the size of the blobs that no other revision wants."""

    used: int
    freed: int
    revisions: tuple[Revision, ...]


def plan_eviction(cache: Cache, limit: int, declared: Iterable[Repo]) -> Eviction:
    """The revisions to remove. Those of `declared` and pinned repositories stay, and those that
    were read a short time ago."""
    needed = [spec.repo for spec in pinned_specs(cache.root.parent)]  # by `openllm pull`
    kept = {repo.key for repo in (*declared, *needed, *read_pins(cache.work_dir))}
    all_revisions = list(_revisions(cache))
    wanted = Counter((one.folder.repo.key, etag) for one in all_revisions for etag in one.blobs)
    used = sum(folder_size(folder.blobs) for folder in cache.folders())
    used += folder_size(cache.work_dir / "fills")
    chosen, freed = [], 0
    for one in sorted(all_revisions, key=attrgetter("last_read")):
        if used - freed <= limit:
            break
        if one.folder.repo.key in kept or time.time() - one.last_read < _IN_USE_S:
            continue
        chosen.append(one)
        for etag, size in one.blobs.items():
            key = (one.folder.repo.key, etag)
            wanted[key] -= 1
            freed += 0 if wanted[key] else size
    return Eviction(used, freed, tuple(chosen))


def evict(cache: Cache, limit: int, declared: Iterable[Repo]) -> int:
    """Remove revisions until the cache is not larger than `limit` bytes. Returns the freed
    bytes."""
    plan, freed = plan_eviction(cache, limit, declared), 0
    for one in plan.revisions:
        with contextlib.suppress(NotFoundError):
            size = remove_revision(cache, one.folder, one.commit_hash, lambda: None)
            log.info("Removed to make room: %s (%s).", one.text, human(size))
            freed += size
    return freed


def _revisions(cache: Cache) -> Iterator[Revision]:
    reads = LastReads(cache.work_dir)
    for folder in cache.folders():
        for commit_hash in folder.recorded_commits():
            record = read_record(folder, commit_hash)
            if record is not None:
                blobs = {file.etag: file.size for file in record.files.values()}
                last = reads.of(folder.path.name, commit_hash)
                pulled = record.pulled_at.timestamp()
                yield Revision(folder, commit_hash, blobs, max(last, pulled))
