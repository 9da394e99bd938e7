"""All repositories of the sources, as the hub's listings show them.

A listing looks at every repository. What a row says is kept in memory, under a stamp that changes
with the repository's folders; only repositories that changed are read again.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from mirror.core.errors import NotFoundError, UnavailableError
from mirror.derived import hub_json
from mirror.derived.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Hashable

    from mirror.core.repo import Repo
    from mirror.core.source import Source
    from mirror.derived.state import State

log = logging.getLogger("hubmirror")

_LISTED = (
    "modelId",
    "author", "sha", "lastModified", "createdAt", "private", "gated", "disabled", "downloads",
    "likes", "trendingScore", "tags", "pipeline_tag", "library_name", "sdk",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One repository: its row of a listing as JSON, and how many of its revisions can be read.

    A repository with no row is waiting: no revision of it is complete.
    """

    repo: Repo
    row: bytes
    visible: int
    waiting: int


class Catalog:
    """The entries of a source, read again when they are older than `ttl_s` seconds."""

    def __init__(self, source: Source, state: State, *, ttl_s: float = 1.0) -> None:
        self._source = source
        self._state = state
        self._ttl_s = ttl_s
        self._until = 0.0
        self._entries: dict[Repo, tuple[Hashable, Entry]] = {}
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """Every repository once, in the order of ids."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._entries = {repo: self._entry(repo) for repo in self._source.repos()}
                self._until = time.monotonic() + self._ttl_s
            entries = (entry for _, entry in self._entries.values())
            return [entry for entry in entries if entry.row or entry.waiting]

    def _entry(self, repo: Repo) -> tuple[Hashable, Entry]:
        try:
            stamp = self._source.stamp(repo)
            kept = self._entries.get(repo)
            if kept is not None and kept[0] == stamp and not kept[1].waiting:
                return kept
            return stamp, self._read(repo)
        except NotFoundError:
            return None, Entry(repo, b"", 0, 0)
        except UnavailableError:
            return None, Entry(repo, b"", 0, 1)
        except Exception:
            # A fault in one repository's files is not to take the others out of the listing.
            log.exception("%s cannot be listed.", repo)
            return None, Entry(repo, b"", 0, 1)

    def _read(self, repo: Repo) -> Entry:
        snapshot = self._source.snapshot(repo, "HEAD")
        row = hub_json.info(Facts(snapshot, self._state), {}, expand=_LISTED)
        commits = list(self._source.commits(repo))
        waiting = sum(not self._is_visible(repo, commit) for commit in commits)
        # orjson's own bytes keep the buffer that they were written in: 8 KB a row.
        body = bytes(memoryview(orjson.dumps(row)))
        return Entry(snapshot.repo, body, len(commits) - waiting, waiting)

    def _is_visible(self, repo: Repo, commit_hash: str) -> bool:
        try:
            self._source.snapshot(repo, commit_hash)
        except (NotFoundError, UnavailableError):
            return False
        return True
