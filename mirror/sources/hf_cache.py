"""An HF cache folder (`HF_HUB_CACHE`), managed or foreign."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import RepositoryNotFoundError, UnavailableError
from mirror.repos import Repo
from mirror.sources.foreign import ForeignRevisions
from mirror.sources.layout import RepoDir
from mirror.sources.managed import ManagedRevisions
from mirror.sources.recent import HOLD, RecentSnapshots

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from mirror.digests import Digests
    from mirror.source import Snapshot


class HfCache:
    """All repositories of one cache folder.

    A repository that a pull keeps records of is served by its records, in either kind of cache.
    One without is served as far as it goes where the cache is foreign, and is not visible where
    it is managed: it may be arriving.
    """

    def __init__(
        self, root: Path, digests: Digests, *, managed: bool, label: str = "", hold: float = HOLD
    ) -> None:
        self._kind = "managed" if managed else "hf-cache"
        self.label = label or self._kind
        self._root = Path(os.path.realpath(root))
        self._digests = digests
        self._managed = managed
        self._recent = RecentSnapshots(hold)
        self._hold = hold
        self._folders: tuple[float, dict[Repo, str]] = (0.0, {})
        self._lock = threading.Lock()

    def repos(self) -> list[Repo]:
        with _disk_errors(f"A source ({self._kind})"):
            return sorted(
                repo
                for name in self._list().values()
                if (repo := Repo.from_folder_name(name)) is not None
            )

    def refs(self, repo: Repo) -> Mapping[str, str]:
        with _disk_errors(str(repo)):
            return self._revisions(repo).refs()

    def commits(self, repo: Repo) -> list[str]:
        with _disk_errors(str(repo)):
            return self._revisions(repo).commits()

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        with _disk_errors(str(repo)):
            return self._revisions(repo).snapshot(revision)

    def stamp(self, repo: Repo) -> Hashable:
        with _disk_errors(str(repo)):
            return self._folder(repo).stamp()

    def unseen(self) -> list[Repo]:
        if not self._managed:
            return []
        with _disk_errors(f"A source ({self._kind})"):
            return [repo for repo in self.repos() if not self._folder(repo).recorded()]

    def _revisions(self, repo: Repo) -> ManagedRevisions | ForeignRevisions:
        folder = self._folder(repo)
        if self._managed or folder.recorded():
            return ManagedRevisions(folder, self._recent)
        return ForeignRevisions(folder, self._digests, self._recent)

    def _folder(self, repo: Repo) -> RepoDir:
        exact = self._root / repo.folder_name
        if exact.is_dir():
            return RepoDir(self._root, repo, exact)
        name = self._list().get(_folded(repo))
        true_repo = Repo.from_folder_name(name) if name else None
        if name is None or true_repo is None:
            raise RepositoryNotFoundError(repo)
        return RepoDir(self._root, true_repo, self._root / name)

    def _list(self) -> dict[Repo, str]:
        """Folder names by the repo they hold in lower case, read at most once in `hold`."""
        with self._lock:
            until, folders = self._folders
            if time.monotonic() >= until:
                names = sorted(self._names(), reverse=True)
                repos = ((name, Repo.from_folder_name(name)) for name in names)
                folders = {_folded(repo): name for name, repo in repos if repo is not None}
                self._folders = (time.monotonic() + self._hold, folders)
            return folders

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._root)
        except FileNotFoundError:
            if self._managed and self._root.parent.is_dir():
                return []
            raise


def _folded(repo: Repo) -> Repo:
    return Repo(repo.repo_type, repo.repo_id.lower())


@contextlib.contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    """A disk that fails is an outage, never an absence."""
    try:
        yield
    except OSError as exc:
        raise UnavailableError(f"{name} cannot be read: {exc.strerror}.") from exc
