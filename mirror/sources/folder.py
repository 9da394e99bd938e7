"""A plain folder that somebody copied, served as one repository.

Nothing in it names a commit, so the commit hash is git's id of its tree: the same files give the
same hash anywhere, and any change gives another.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import (
    DigestPendingError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.core.repo import Repo, find_commit
from mirror.core.source import Layout, Snapshot
from mirror.sources.plain import PlainFiles
from mirror.sources.snapshot_cache import TTL_S, hold_s

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from mirror.derived.digests import Digests


log = logging.getLogger("hubmirror")

_PATIENCE_S = 0.02
"""Seconds that a look may take for which a client waits, where an older one is at hand."""


class Folder:
    """One folder as one repository, with one revision: `main`.

    A large folder is looked at in the background: until that is done, the last snapshot answers.
    A file that is sent is compared with it when it is opened.
    """

    def __init__(
        self, root: Path, repo: Repo, digests: Digests, *, label: str = "", ttl_s: float = TTL_S
    ) -> None:
        self.label = label or f"folder={repo}"
        self.layout = Layout.OTHER
        self.root = Path(root).absolute()
        self._repo = repo
        self._digests = digests
        self._ttl_s = ttl_s
        self._kept: tuple[PlainFiles, Snapshot] | None = None
        self._until = 0.0
        self._cost = 0.0
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()

    def repos(self) -> list[Repo]:
        if not self.root.is_dir():
            raise UnavailableError(f"{self._repo} cannot be read: its folder is not there.")
        return [self._repo]

    def refs(self, repo: Repo) -> Mapping[str, str]:
        return {"refs/heads/main": self.snapshot(repo, "main").commit_hash}

    def commits(self, repo: Repo) -> list[str]:
        return [self.snapshot(repo, "main").commit_hash]

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        self._check(repo)
        try:
            snapshot = self._current()
        except OSError as exc:
            raise UnavailableError(f"{repo} cannot be read: {exc.strerror}.") from exc
        commit = snapshot.commit_hash
        if find_commit(revision, {"refs/heads/main": commit}, [commit]) is None:
            raise RevisionNotFoundError(
                repo, revision, f"It is a plain folder here; its one revision is main, {commit}."
            )
        return snapshot

    def stamp(self, repo: Repo) -> Hashable:
        snapshot = self.snapshot(repo, "main")
        return snapshot.commit_hash, snapshot.last_modified.isoformat(), len(snapshot.absent)

    def identities(self) -> list[str]:
        return []

    def unrecorded(self) -> list[Repo]:
        return []

    def _check(self, repo: Repo) -> None:
        if repo.key != self._repo.key:
            raise RepositoryNotFoundError(repo)

    def _current(self) -> Snapshot:
        """The snapshot, read again where it is old; in the background where that takes long. Of
        those who ask at once, one reads for all. Raises DigestPendingError and OSError."""
        kept = self._kept
        if kept is not None and time.monotonic() < self._until:
            return kept[1]
        if kept is not None and self._ttl_s and self._cost > _PATIENCE_S:
            self.root.stat()  # one that went away is an outage at once
            if self._refreshing.acquire(blocking=False):
                threading.Thread(target=self._refresh, name="folder", daemon=True).start()
            return kept[1]
        with self._lock:
            if self._kept is None or time.monotonic() >= self._until:
                self._kept = self._read()
            return self._kept[1]

    def _refresh(self) -> None:
        try:
            with self._lock:
                self._kept = self._read()
        except (OSError, UnavailableError) as exc:
            # Whoever asks next waits for a look of its own, and is told.
            if not isinstance(exc, DigestPendingError):
                self._kept = None
        except Exception:
            log.exception("%s could not be read.", self._repo)
        finally:
            self._refreshing.release()

    def _read(self) -> tuple[PlainFiles, Snapshot]:
        """What the folder holds, which is what is kept where nothing changed."""
        kept = self._kept
        before = kept[0] if kept is not None else None
        started = time.monotonic()
        found = PlainFiles.read(self.root, str(self._repo), self._digests, before=before)
        if kept is None or found is not before:
            kept = found, self._snapshot_of(found)
        self._cost = time.monotonic() - started
        self._until = time.monotonic() + hold_s(self._ttl_s, self._cost)
        return kept

    def _snapshot_of(self, found: PlainFiles) -> Snapshot:
        return Snapshot(
            repo=self._repo,
            commit_hash=found.tree_id,
            files=found.files,
            last_modified=found.last_modified,
            absent=found.absent,
        )
