"""A repository in the cache of a hub client (huggingface_hub): all files in it are served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.core.errors import RequestError, RevisionNotFoundError, UnavailableError
from mirror.core.repo import find_commit
from mirror.core.source import LocalFile, Snapshot, StoredFile
from mirror.core.tree import RepoFile, check_file_path, lfs_file
from mirror.derived.digests import DigestJob
from mirror.sources.plain import by_rule, stored_file
from mirror.sources.repo_dir import Found, LinkError, RepoDir
from mirror.sources.scan import LfsRule, files_below, moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.derived.digests import Digests
    from mirror.sources.snapshot_cache import SnapshotCache

_NOT_HERE = "Upstream has the file, but this mirror's folder does not."


@dataclass(frozen=True, slots=True)
class ForeignRevisions:
    """The revisions of a foreign cache: every snapshot folder is a revision, even if files are
    missing."""

    folder: RepoDir
    digests: Digests
    recent: SnapshotCache

    def refs(self) -> dict[str, str]:
        here = set(self.commits())
        return {name: commit for name, commit in self.folder.refs().items() if commit in here}

    def commits(self) -> list[str]:
        return self.folder.snapshot_commits()

    def snapshot(self, revision: str) -> Snapshot:
        """The snapshot with all files that can be read. Raises DigestPendingError."""
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
        snapshot = self.folder.snapshot(commit_hash)
        tree = self.folder.read_tree(commit_hash)
        found, absent = self._find(str(snapshot))
        return Snapshot(
            repo=self.folder.repo,
            commit_hash=commit_hash,
            files=self._name(str(snapshot), found, tree or {}),
            last_modified=moment(snapshot.stat().st_mtime),
            absent=dict.fromkeys((tree or {}).keys() - found.keys(), _NOT_HERE) | absent,
            whole=tree is not None,
            no_exist=self.folder.no_exist(commit_hash),
        )

    def _find(self, snapshot: str) -> tuple[dict[str, Found], dict[str, str]]:
        found: dict[str, Found] = {}
        absent: dict[str, str] = {}
        for path in files_below(snapshot):
            try:
                check_file_path(path)
                found[path] = self.folder.find(f"{snapshot}/{path}")
            except (FileNotFoundError, NotADirectoryError):
                absent[path] = f"{_NOT_HERE} Its symlink points to a blob that does not exist."
            except LinkError as exc:
                absent[path] = f"This mirror does not serve the file: {exc}."
            except RequestError as exc:
                absent[path] = f"This mirror does not serve the file: {exc}"
        return found, absent

    def _name(
        self, snapshot: str, found: Mapping[str, Found], tree: Mapping[str, RepoFile]
    ) -> dict[str, StoredFile]:
        named = {path: _named(path, file, tree.get(path)) for path, file in found.items()}
        unnamed = [path for path, file in named.items() if file is None]
        rule = LfsRule.of(snapshot, found if unnamed else ())
        files: dict[str, StoredFile] = {
            path: LocalFile(file, found[path].location) for path, file in named.items() if file
        }
        results = {path: by_rule(path, _wanted(found[path]), rule) for path in unnamed}
        files |= {path: file for path, file in results.items() if isinstance(file, LocalFile)}
        wanted = {path: job for path, job in results.items() if isinstance(job, DigestJob)}
        digests = self.digests.each(str(self.folder.repo), wanted.values()) if wanted else []
        for (path, job), digest in zip(wanted.items(), digests, strict=True):
            files[path] = stored_file(path, job, digest)
        return files


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
