"""A plain folder that somebody copied, served as one repository.

Nothing in it names a commit, so the commit hash is git's id of its tree: the same files give the
same hash anywhere, and any change gives another.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.digests import Wanted
from mirror.errors import (
    RepositoryNotFoundError,
    RequestError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.repos import Repo, find_commit
from mirror.source import Snapshot, StoredFile
from mirror.sources.recent import HOLD, RecentSnapshots
from mirror.sources.scan import LfsRule, digested, files_below
from mirror.trees import Tree, check_path, lfs_file

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from mirror.digests import Digests

_SKIPPED = frozenset({".git", ".cache/huggingface", ".hubmirror"})
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)

_LONGEST_POINTER = 200


class Folder:
    """One folder as one repository, with one revision: `main`."""

    def __init__(
        self, root: Path, repo: Repo, digests: Digests, *, label: str = "", hold: float = HOLD
    ) -> None:
        self.label = label or f"folder={repo}"
        self._root = Path(root).absolute()
        self._repo = repo
        self._digests = digests
        self._recent = RecentSnapshots(hold)

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
        return self.snapshot(repo, "main").commit_hash

    def identities(self) -> list[str]:
        return []

    def unseen(self) -> list[Repo]:
        return []

    def _check(self, repo: Repo) -> None:
        mine = self._repo
        if (repo.repo_type, repo.repo_id.lower()) != (mine.repo_type, mine.repo_id.lower()):
            raise RepositoryNotFoundError(repo)

    def _read(self) -> Snapshot:
        root = os.path.realpath(self._root, strict=True)
        rule = LfsRule.of(root)
        absent: dict[str, str] = {}
        found: dict[str, Wanted | StoredFile] = {}
        newest = 0
        for path in files_below(root, _SKIPPED):
            try:
                check_path(path)
                location, size, mtime_ns = _follow(root, path)
                found[path] = _pointed_at(root, path, location, size) or Wanted(
                    location, size, mtime_ns, rule.kind(path, location, size)
                )
                newest = max(newest, mtime_ns)
            except (_NotServed, RequestError) as exc:
                absent[path] = f"This mirror does not serve it: {exc}"
        files = self._digested(found)
        tree = Tree({path: stored.file for path, stored in files.items()})
        return Snapshot(
            repo=self._repo,
            commit_hash=tree.tree_id(),
            files=files,
            last_modified=datetime.fromtimestamp(newest / 1e9, UTC),
            absent=absent,
        )

    def _digested(self, found: Mapping[str, Wanted | StoredFile]) -> dict[str, StoredFile]:
        wanted = {path: one for path, one in found.items() if isinstance(one, Wanted)}
        digests = self._digests.of(str(self._repo), wanted.values())
        files = {path: one for path, one in found.items() if isinstance(one, StoredFile)}
        for (path, want), digest in zip(wanted.items(), digests, strict=True):
            files[path] = StoredFile(digested(path, want, digest), want.location)
        return files


class _NotServed(Exception):
    """Why a file of the folder is not offered."""


def _follow(root: str, path: str) -> tuple[str, int, int]:
    """Where a file's bytes are, following links inside the folder; its size and mtime."""
    try:
        location = os.path.realpath(os.path.join(root, path), strict=True)
        found = os.stat(location)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise _NotServed("it is a link that leads to nothing.") from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise _NotServed("it is a link that leads back to itself.") from exc
        raise
    if not location.startswith(f"{root}{os.sep}"):
        raise _NotServed("it is a link that leaves the folder, which is not followed.")
    if not stat.S_ISREG(found.st_mode):
        raise _NotServed("it is a link to something other than a file.")
    return location, found.st_size, found.st_mtime_ns


def _pointed_at(root: str, path: str, location: str, size: int) -> StoredFile | None:
    """The LFS object that a git clone keeps for a pointer which was never checked out."""
    if size > _LONGEST_POINTER:
        return None
    match = _POINTER.fullmatch(Path(location).read_bytes())
    if match is None:
        return None
    sha256, true_size = match[1].decode(), int(match[2])
    kept = os.path.join(root, ".git/lfs/objects", sha256[:2], sha256[2:4], sha256)
    if not os.path.isfile(kept) or os.path.getsize(kept) != true_size:
        raise _NotServed("it is a git-lfs pointer whose content was never fetched (git lfs pull).")
    return StoredFile(lfs_file(path, true_size, sha256), kept)
