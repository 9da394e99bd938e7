"""A repository in the cache of a hub client (huggingface_hub).

All files in it are listed. One that cannot be served is listed with the reason, and so is one that
is not in it, although its owner wanted it: so a client that needs the file fails.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.core.errors import (
    RevisionIncompleteError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.core.foreign_names import unfinished_path
from mirror.core.repo import find_commit
from mirror.core.source import LocalFile, Snapshot, refuse_corrupt
from mirror.core.tree import RepoFile, is_etag, lfs_file, listed_path
from mirror.derived.digests import DigestJob
from mirror.derived.proofs import problem_of
from mirror.sources.lost import UNFINISHED, lost_shards, name_problem, unfinished_blobs
from mirror.sources.plain import by_rule, stored_file
from mirror.sources.repo_dir import Found, LinkError, RepoDir
from mirror.sources.scan import LfsRule, files_below, moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.derived.digests import Digests
    from mirror.derived.proofs import CorruptFiles
    from mirror.sources.snapshot_cache import SnapshotCache

_NOT_HERE = "Upstream has the file, but this mirror's folder does not."
_NO_BLOB = "its symlink points to a blob that is not here"
_EMPTY = (
    "{repo} at {commit_hash} has no files in this mirror: its folder was copied without symlinks, "
    "or its download has not begun. Ask the mirror's operator to copy or download it again."
)


@dataclass(frozen=True, slots=True)
class ForeignRevisions:
    """The revisions of a foreign cache: every snapshot folder is a revision, even if files are
    missing."""

    folder: RepoDir
    digests: Digests
    recent: SnapshotCache
    corrupt: CorruptFiles

    def refs(self) -> dict[str, str]:
        here = set(self.commits())
        return {name: commit for name, commit in self.folder.refs().items() if commit in here}

    def commits(self) -> list[str]:
        return self.folder.snapshot_commits()

    def snapshot(self, revision: str) -> Snapshot:
        """The snapshot. Raises DigestPendingError, and RevisionIncompleteError if it is empty."""
        commit = self._commit(revision)
        return self.recent.get((self.folder.path, commit), lambda: self._read(commit))

    def _commit(self, revision: str) -> str:
        commits = self.commits()
        here = {*commits, ""}
        refs = {name: commit for name, commit in self.folder.refs().items() if commit in here}
        commit = find_commit(revision, refs, commits)
        if commit == "":
            raise UnavailableError(
                f"The ref {revision} of {self.folder.repo} is damaged: it has no commit hash. "
                "Ask the mirror's operator to download the repository again."
            )
        if commit is None:
            raise RevisionNotFoundError(self.folder.repo, revision)
        return commit

    def _read(self, commit_hash: str) -> Snapshot:
        folder = self.folder.snapshot(commit_hash)
        tree = self.folder.read_tree(commit_hash)
        found, broken = self._find(str(folder), tree or {})
        if not found and not broken:
            raise RevisionIncompleteError(
                _EMPTY.format(repo=self.folder.repo, commit_hash=commit_hash), "it has no files"
            )
        broken |= self._lost(str(folder), found, broken, tree or {})
        files = {**self._name(str(folder), found, tree or {}), **broken}
        return Snapshot(
            repo=self.folder.repo,
            commit_hash=commit_hash,
            files=refuse_corrupt(files, self.corrupt.find()),
            last_modified=moment(folder.stat().st_mtime),
            absent=dict.fromkeys((tree or {}).keys() - files.keys(), _NOT_HERE),
            whole=tree is not None,
            no_exist=self.folder.no_exist(commit_hash),
        )

    def _find(
        self, snapshot: str, tree: Mapping[str, RepoFile]
    ) -> tuple[dict[str, Found], dict[str, LocalFile]]:
        """The files that can be read, and those of the snapshot that cannot be served."""
        found: dict[str, Found] = {}
        broken: dict[str, LocalFile] = {}
        unfinished: set[str] = set()
        for path in files_below(snapshot, keep=tree):
            place = f"{snapshot}/{path}"
            final = "" if path in tree or os.path.islink(place) else unfinished_path(path)
            if final:
                unfinished.add(listed_path(final))
            elif problem := name_problem(path):
                listed = listed_path(path)
                broken[listed] = LocalFile.unreadable(listed, place, 0, problem)
            else:
                try:
                    found[path] = self.folder.find(place)
                except (FileNotFoundError, NotADirectoryError):
                    file = tree.get(path) or _pointed_at(path, place)
                    broken[path] = LocalFile(file, place, problem=_NO_BLOB)
                except LinkError as exc:
                    broken[path] = LocalFile.unreadable(path, place, 0, str(exc))
        for path in unfinished - found.keys() - broken.keys():
            broken[path] = LocalFile.unreadable(path, f"{snapshot}/{path}", 0, UNFINISHED)
        return found, broken

    def _lost(
        self,
        snapshot: str,
        found: Mapping[str, Found],
        broken: Mapping[str, LocalFile],
        tree: Mapping[str, RepoFile],
    ) -> dict[str, LocalFile]:
        """The files that are not in the snapshot, although the cache was meant to hold them."""
        here = found.keys() | broken.keys()
        locations = {path: one.location for path, one in found.items()}
        lost = lost_shards(here, locations, is_whole=False)
        wanted = tree.keys() - here
        started = unfinished_blobs(str(self.folder.blobs)) if wanted else frozenset()
        lost |= {path: UNFINISHED for path in wanted if tree[path].etag in started}
        return {
            path: LocalFile(tree[path], f"{snapshot}/{path}", problem=reason)
            if path in tree
            else LocalFile.unreadable(path, f"{snapshot}/{path}", 0, reason)
            for path, reason in lost.items()
        }

    def _name(
        self, snapshot: str, found: Mapping[str, Found], tree: Mapping[str, RepoFile]
    ) -> dict[str, LocalFile]:
        named = {path: _named(path, file, tree.get(path)) for path, file in found.items()}
        files: dict[str, LocalFile] = {}
        unnamed: list[str] = []
        for path, file in named.items():
            location, status = found[path].location, found[path].stat
            if problem := _problem(path, found[path], file):
                entry = file or LocalFile.unreadable(path, location, status.st_size, "").file
                files[path] = LocalFile(entry, location, problem=problem)
            elif file is not None:
                files[path] = LocalFile(file, location)
            else:
                unnamed.append(path)
        rule = LfsRule.of(snapshot, found if unnamed else ())
        results = {path: by_rule(path, _wanted(found[path]), rule) for path in unnamed}
        files |= {path: file for path, file in results.items() if isinstance(file, LocalFile)}
        wanted = {path: job for path, job in results.items() if isinstance(job, DigestJob)}
        digests = self.digests.each(str(self.folder.repo), wanted.values()) if wanted else []
        for (path, job), digest in zip(wanted.items(), digests, strict=True):
            files[path] = stored_file(path, job, digest)
        return files


def _problem(path: str, found: Found, file: RepoFile | None) -> str:
    """The reason why a file cannot be served; empty if none is known."""
    size = found.stat.st_size
    if file is not None and file.size != size:
        return f"it has {size} bytes where {file.size} are expected"
    return problem_of(path, found.location, found.stat, file.etag if file else None)


def _pointed_at(path: str, link: str) -> RepoFile:
    """The entry of a file of unknown size whose symlink names a blob that is not here."""
    try:
        etag = os.path.basename(os.readlink(link))
    except OSError:
        etag = ""
    if not is_etag(etag):
        return LocalFile.unreadable(path, link, 0, "").file
    return lfs_file(path, 0, etag) if len(etag) == 64 else RepoFile(path, 0, etag)


def _named(path: str, found: Found, listed: RepoFile | None) -> RepoFile | None:
    """The entry of a file, if the tree file or the name of the blob contains its digest."""
    if listed is not None and found.etag in (None, listed.etag):
        return replace(listed, xet_hash=listed.xet_hash or found.xet_hash)
    if found.etag is None:
        return None
    size = found.stat.st_size
    if len(found.etag) == 64:
        return lfs_file(path, size, found.etag, found.xet_hash)
    return RepoFile(path, size, found.etag)


def _wanted(found: Found) -> DigestJob:
    return DigestJob(found.location, found.stat.st_size, found.stat.st_mtime_ns, "sha256")
