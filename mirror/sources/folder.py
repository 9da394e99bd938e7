"""A plain folder that somebody copied, served as one repository.

Nothing in it names a commit, so the commit hash is git's id of its tree: the same files give the
same hash anywhere, and any change gives another.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import RepositoryNotFoundError, RevisionNotFoundError, UnavailableError
from mirror.core.repo import Repo, find_commit
from mirror.core.source import Snapshot
from mirror.sources.plain import PlainFiles
from mirror.sources.snapshot_cache import TTL_S, SnapshotCache

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from mirror.derived.digests import Digests


class Folder:
    """One folder as one repository, with one revision: `main`."""

    def __init__(
        self, root: Path, repo: Repo, digests: Digests, *, label: str = "", ttl_s: float = TTL_S
    ) -> None:
        self.label = label or f"folder={repo}"
        self._root = Path(root).absolute()
        self._repo = repo
        self._digests = digests
        self._recent = SnapshotCache(ttl_s)

    def repos(self) -> list[Repo]:
        if not self._root.is_dir():
            raise UnavailableError(f"{self._repo} cannot be read: its folder is not there.")
        return [self._repo]

    def refs(self, repo: Repo) -> Mapping[str, str]:
        return {"refs/heads/main": self.snapshot(repo, "main").commit_hash}

    def commits(self, repo: Repo) -> list[str]:
        return [self.snapshot(repo, "main").commit_hash]

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        self._check(repo)
        try:
            snapshot = self._recent.get("main", self._read)
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

    def _read(self) -> Snapshot:
        found = PlainFiles.read(self._root, str(self._repo), self._digests)
        return Snapshot(
            repo=self._repo,
            commit_hash=found.tree_id,
            files=found.files,
            last_modified=found.last_modified,
            absent=found.absent,
        )
