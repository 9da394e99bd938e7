"""A plain folder as a source with one repository.

A plain folder has no commit hash. So the commit hash is the git id of its tree: the same files
have the same hash on every host, and any change gives another hash.
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
from mirror.core.presence import Presence
from mirror.core.repo import Repo, find_commit
from mirror.core.source import Layout, Snapshot, disk_errors, refuse_corrupt
from mirror.derived.proofs import CorruptFiles
from mirror.sources.plain import PlainFiles
from mirror.sources.snapshot_cache import TTL_S, hold_s

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from mirror.core.source import LocalFile
    from mirror.derived.digests import Digests


log = logging.getLogger("hubmirror")

_PATIENCE_S = 0.02
"""If reading the folder takes longer than this, in seconds, clients get the last snapshot and do
not wait for the new one."""


class Folder:
    """One folder as one repository, with one revision: `main`.

    A large folder is read in the background; until the read ends, requests get the last snapshot.
    When a file is opened, its size and mtime are compared with the snapshot.
    """

    def __init__(
        self, root: Path, repo: Repo, digests: Digests, *, label: str = "", ttl_s: float = TTL_S
    ) -> None:
        self.label = label or f"folder={repo}"
        self.layout = Layout.OTHER
        self.root = Path(root).absolute()
        self.presence = Presence(self.root, str(repo), self._has_content)
        self._repo = repo
        self._digests = digests
        self._corrupt = CorruptFiles(digests.state, self.root)
        self._ttl_s = ttl_s
        self._kept: tuple[PlainFiles, Snapshot] | None = None
        self._until = 0.0
        self._cost = 0.0
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()

    def repos(self) -> list[Repo]:
        if not self.root.is_dir():
            raise UnavailableError(f"{self._repo} cannot be read: its folder does not exist.")
        self.presence.check()
        return [self._repo]

    def refs(self, repo: Repo) -> Mapping[str, str]:
        return {"refs/heads/main": self.snapshot(repo, "main").commit_hash}

    def commits(self, repo: Repo) -> list[str]:
        return [self.snapshot(repo, "main").commit_hash]

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        self._check(repo)
        with disk_errors(str(repo)):
            snapshot = self._current()
        commit = snapshot.commit_hash
        if find_commit(revision, {"refs/heads/main": commit}, [commit]) is None:
            raise RevisionNotFoundError(
                repo, revision, f"It is a plain folder; its only revision is main, {commit}."
            )
        return snapshot

    def stamp(self, repo: Repo) -> Hashable:
        snapshot = self.snapshot(repo, "main")
        problems = sum(1 for stored in snapshot.files.values() if stored.problem)
        return snapshot.commit_hash, snapshot.last_modified.isoformat(), problems

    def identities(self) -> list[str]:
        return []

    def unrecorded(self) -> list[Repo]:
        return []

    def _has_content(self) -> bool:
        return any(self.root.iterdir())

    def _check(self, repo: Repo) -> None:
        if repo.key != self._repo.key:
            raise RepositoryNotFoundError(repo)

    def _current(self) -> Snapshot:
        """The snapshot. If it is old, it is read again; if that takes long, in the background.
        Concurrent callers wait for one read. Raises DigestPendingError and OSError."""
        kept = self._kept
        if kept is not None and time.monotonic() < self._until:
            return kept[1]
        if kept is not None and self._ttl_s and self._cost > _PATIENCE_S:
            self.root.stat()  # a missing folder is an error at once
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
            # The next request reads the folder itself, and gets the error.
            if not isinstance(exc, DigestPendingError):
                self._kept = None
        except Exception:
            log.exception("%s could not be read.", self._repo)
        finally:
            self._refreshing.release()

    def _read(self) -> tuple[PlainFiles, Snapshot]:
        """The content of the folder. If nothing has changed, it is the same object as before."""
        kept = self._kept
        before = kept[0] if kept is not None else None
        started = time.monotonic()
        found = PlainFiles.read(self.root, str(self._repo), self._digests, before=before)
        if not found.files:
            raise UnavailableError(
                f"{self._repo} cannot be served: its folder is empty. Ask the mirror's operator "
                "whether its disk is mounted, and its copy has begun."
            )
        self.presence.note_content()
        files = refuse_corrupt(found.files, self._corrupt.find())
        if kept is None or found is not before or files != kept[1].files:
            kept = found, self._snapshot_of(found, files)
        self._cost = time.monotonic() - started
        self._until = time.monotonic() + hold_s(self._ttl_s, self._cost)
        return kept

    def _snapshot_of(self, found: PlainFiles, files: Mapping[str, LocalFile]) -> Snapshot:
        commit = found.commit()
        return Snapshot(
            repo=self._repo,
            commit_hash=commit.commit_hash,
            commit=commit,
            files=files,
            last_modified=found.last_modified,
        )
