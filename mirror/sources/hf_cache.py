"""An HF cache folder (`HF_HUB_CACHE`), managed or foreign."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import NotFoundError, RepositoryNotFoundError
from mirror.core.presence import Presence
from mirror.core.repo import Repo
from mirror.core.source import Layout, disk_errors
from mirror.derived.proofs import CorruptFiles
from mirror.sources.foreign import ForeignRevisions
from mirror.sources.managed import ManagedRevisions
from mirror.sources.pull_status import read_pull
from mirror.sources.repo_dir import RepoDir, identity, stamp_of
from mirror.sources.snapshot_cache import TTL_S, SnapshotCache

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from mirror.core.source import Snapshot
    from mirror.derived.digests import Digests


class HfCache:
    """All repositories of one cache folder.

    If a repository has records of pulls, only the recorded revisions are served, in both kinds of
    cache. A repository without records is served with all its files if the cache is foreign. If the
    cache is managed, the repository is not visible, because its copy may still be running.
    """

    def __init__(
        self, root: Path, digests: Digests, *, managed: bool, label: str = "", ttl_s: float = TTL_S
    ) -> None:
        self._kind = "managed" if managed else "hf-cache"
        self.label = label or self._kind
        self.root = Path(os.path.realpath(root))
        self.layout = Layout.MANAGED_CACHE if managed else Layout.HF_CACHE
        self.managed = managed
        self._digests = digests
        self._corrupt = CorruptFiles(digests.state, self.root)
        self._recent = SnapshotCache(ttl_s)
        self._ttl_s = ttl_s
        self.presence = Presence(self.root, f"A source ({self._kind})", self._has_content)
        self._folders: tuple[float, dict[str, list[tuple[Repo, str]]]] = (0.0, {})
        self._lock = threading.Lock()

    def repos(self) -> list[Repo]:
        with disk_errors(f"A source ({self._kind})"):
            listed = self._folders_listed()
            if listed and not any(_is_readable(f"{self.root}/{name}") for _, name in listed):
                self.presence.check()
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.root))
        self.presence.check()
        return [repo for repo, _ in listed]

    def refs(self, repo: Repo) -> Mapping[str, str]:
        with self._not_away(repo):
            return self._revisions(repo).refs()

    def commits(self, repo: Repo) -> list[str]:
        with self._not_away(repo):
            return self._revisions(repo).commits()

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        with self._not_away(repo):
            return self._recent.get(
                (repo, revision), lambda: self._revisions(repo).snapshot(revision)
            )

    def stamp(self, repo: Repo) -> Hashable:
        with self._not_away(repo):
            found = stamp_of(f"{self.root}/{repo.folder_name}", is_managed=self.managed)
            return found or stamp_of(str(self._folder(repo).path), is_managed=self.managed)

    def identities(self) -> list[str]:
        name = identity(self.root)
        return [name] if name else []

    def unrecorded(self) -> list[Repo]:
        if not self.managed:
            return []
        with disk_errors(f"A source ({self._kind})"):
            listed = self._folders_listed()
            return [repo for repo, name in listed if self._is_unrecorded(repo, name)]

    def _is_unrecorded(self, repo: Repo, name: str) -> bool:
        path = f"{self.root}/{name}"
        is_recorded = os.path.isdir(f"{path}/hubmirror")
        return not is_recorded and _is_readable(path) and not read_pull(self.root, repo)

    def _revisions(self, repo: Repo) -> ManagedRevisions | ForeignRevisions:
        folder = self._folder(repo)
        if self.managed or folder.recorded():
            return ManagedRevisions(folder, self._recent)
        return ForeignRevisions(folder, self._digests, self._recent, self._corrupt)

    def _folder(self, repo: Repo) -> RepoDir:
        exact = self.root / repo.folder_name
        if exact.is_dir():
            return RepoDir(self.root, repo, exact)
        found = self._list().get(repo.key)
        if found is None:
            raise RepositoryNotFoundError(repo)
        true_repo, name = found[0]
        return RepoDir(self.root, true_repo, self.root / name)

    def _folders_listed(self) -> list[tuple[Repo, str]]:
        return list(itertools.chain.from_iterable(self._list().values()))

    @contextlib.contextmanager
    def _not_away(self, repo: Repo) -> Iterator[None]:
        """Raise UnavailableError for a disk error, and for "not found" if the folder is away."""
        try:
            with disk_errors(str(repo)):
                yield
        except NotFoundError:
            self.presence.check()
            raise

    def _has_content(self) -> bool:
        is_repo = (Repo.from_folder_name(name) is not None for name in os.listdir(self.root))
        return identity(self.root) != "" or any(is_repo)

    def _list(self) -> dict[str, list[tuple[Repo, str]]]:
        """Repos and their folders by key, in order: two folders can differ only in case. The cache
        is listed at most once in `ttl_s` seconds."""
        with self._lock:
            until, folders = self._folders
            if time.monotonic() >= until:
                folders = {}
                for name in sorted(self._names()):
                    if repo := Repo.from_folder_name(name):
                        folders.setdefault(repo.key, []).append((repo, name))
                if folders or identity(self.root):
                    self.presence.note_content()
                self._folders = (time.monotonic() + self._ttl_s, folders)
            return folders

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.root)
        except FileNotFoundError:
            if self.managed and self.root.parent.is_dir():
                return []
            raise


def _is_readable(folder: str) -> bool:
    """Whether this user may list a folder and open what is in it."""
    return os.access(folder, os.R_OK | os.X_OK)
