"""A repository that `hubmirror pull` writes: only complete revisions are visible.

So rsync can copy the files in any order: a ref always points to its last complete revision.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.core.errors import RevisionIncompleteError, RevisionNotFoundError, UnavailableError
from mirror.core.record import ManifestError
from mirror.core.repo import COMMIT_HASH, find_commit, short_ref
from mirror.core.source import LocalFile, Snapshot, StoredFile
from mirror.core.units import human
from mirror.sources.pull_status import PullStatus, read_pull
from mirror.sources.repo_dir import WORK_DIR, LinkError, RepoDir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mirror.core.record import Record
    from mirror.core.tree import RepoFile
    from mirror.sources.snapshot_cache import SnapshotCache

_LEFT_OUT = "Upstream has the file, but the pull of this revision left it out."

_NO_RECORD = (
    "The record of {repo} at {commit_hash} has not arrived in this mirror yet. If no copy is "
    "running, ask the mirror's operator to copy or pull the revision."
)


@dataclass(frozen=True, slots=True)
class ManagedRevisions:
    """The revisions of a managed repository whose record and wanted files all exist."""

    folder: RepoDir
    recent: SnapshotCache

    def refs(self) -> dict[str, str]:
        """Each ref with the commit that is served for it now."""
        return self._refs_of(self._visible())

    def commits(self) -> list[str]:
        return self.folder.recorded_commits()

    def snapshot(self, revision: str) -> Snapshot:
        """The snapshot of a revision. Raises RevisionIncompleteError if files are missing and the
        ref has no older complete revision."""
        commit = find_commit(revision, self.folder.refs(), self.commits())
        if commit:
            try:
                return self._read(commit)
            except UnavailableError:
                if COMMIT_HASH.fullmatch(revision):
                    raise
        visible = self._visible()
        hashes = [record.commit_hash for record in visible]
        commit = find_commit(revision, self._refs_of(visible), hashes)
        if commit is None:
            raise self._why_not(revision, nothing_visible=not visible)
        return self._read(commit)

    def _visible(self) -> list[Record]:
        """The records of the complete revisions, oldest pull first."""
        complete = [record for record in self._records() if self._is_complete(record)]
        return sorted(complete, key=lambda record: record.pulled_at)

    def _refs_of(self, visible: Sequence[Record]) -> dict[str, str]:
        refs: dict[str, str] = {}
        for record in visible:
            refs |= dict.fromkeys(record.refs, record.commit_hash)
        here = {record.commit_hash for record in visible}
        full_names = {short_ref(name): name for name in refs}
        for name, commit in self.folder.refs().items():
            if commit in here:
                refs[full_names.get(short_ref(name), name)] = commit
        return refs

    def _records(self) -> list[Record]:
        records = []
        for commit in self.commits():
            try:
                records.append(self.folder.read_record(commit))
            except (ManifestError, FileNotFoundError):
                continue
        return records

    def _read(self, commit_hash: str) -> Snapshot:
        key = (self.folder.path, commit_hash)
        return self.recent.get(key, lambda: self._read_now(commit_hash))

    def _read_now(self, commit_hash: str) -> Snapshot:
        try:
            record = self.folder.read_record(commit_hash)
        except FileNotFoundError as exc:
            raise RevisionIncompleteError(
                _NO_RECORD.format(repo=self.folder.repo, commit_hash=commit_hash)
            ) from exc
        except ManifestError as exc:
            raise RevisionIncompleteError(
                f"The record of {self.folder.repo} at {commit_hash} is {exc}. "
                "Ask the mirror's operator to copy or pull it again."
            ) from exc
        files = self._stored(record)
        if len(files) < len(record.files):
            raise self._incomplete(record, files)
        return Snapshot(
            repo=record.repo,
            commit_hash=commit_hash,
            files=files,
            last_modified=record.pulled_at,
            pulled_at=record.pulled_at,
            absent=dict.fromkeys(record.left_out, _LEFT_OUT),
            info=record.info,
            organization=record.organization,
            commit=record.commit,
        )

    def _is_complete(self, record: Record) -> bool:
        return len(self._stored(record)) == len(record.files)

    def _stored(self, record: Record) -> dict[str, StoredFile]:
        """The files that exist and have the right size."""
        blobs = f"{self.folder.path}/blobs"
        is_real = self.folder.is_real(blobs)
        found: dict[str, StoredFile] = {}
        for file in record.files.values():
            place = f"{blobs}/{file.etag}"
            if not (is_real and _has_size(place, file.size)):
                place = self._linked(record.commit_hash, file)
            if place:
                found[file.path] = LocalFile(file, place)
        return found

    def _linked(self, commit_hash: str, file: RepoFile) -> str:
        """The path of a file below snapshots/, on a disk without symlinks; empty if it does not
        exist."""
        try:
            found = self.folder.find(os.path.join(self.folder.snapshot(commit_hash), file.path))
        except (FileNotFoundError, NotADirectoryError, LinkError):
            return ""
        return found.location if found.stat.st_size == file.size else ""

    def _incomplete(
        self, record: Record, stored: Mapping[str, StoredFile]
    ) -> RevisionIncompleteError:
        total = sum(file.size for file in record.files.values())
        absent = human(total - sum(file.file.size for file in stored.values()))
        count = f"{len(record.files) - len(stored)} of {len(record.files)} files"
        return RevisionIncompleteError(
            f"{record.repo} at {record.commit_hash} is not complete in this mirror: {count} "
            f"({absent} of {human(total)}) are missing. It is served as soon as they arrive. If no "
            "copy is running, ask the mirror's operator to copy or pull it again.",
            brief=f"{count} missing, {absent} of {human(total)}",
            corrupt=any(self._is_set_aside(file) for file in record.files.values()),
        )

    def _is_set_aside(self, file: RepoFile) -> bool:
        """Whether a check of the cache found the blob corrupt and quarantined it."""
        aside = self.folder.root / WORK_DIR / "corrupt" / self.folder.repo.folder_name
        missing = not os.path.lexists(self.folder.blobs / file.etag)
        return missing and os.path.lexists(aside / file.etag)

    def _why_not(self, revision: str, *, nothing_visible: bool) -> Exception:
        repo = self.folder.repo
        pull = read_pull(self.folder.root, repo)
        if pull and pull.is_running and self._is_target(pull, revision):
            return _being_pulled(pull)
        if not self.commits() and pull:
            return RevisionIncompleteError(
                f"{repo} is not complete in this mirror: its pull was stopped or failed. Ask the "
                "mirror's operator to pull it again.",
                brief=pull.text,
            )
        if not self.commits():
            return RevisionIncompleteError(
                f"{repo} has no record of a pull in this mirror's managed cache. If a copy is "
                "running, the repository is served when the copy ends. If it was copied from "
                "another cache, the operator can serve it with --source hf-cache:FOLDER.",
                brief="no pull has recorded it",
            )
        waiting = [one for one in self._records() if self._is_meant(one, revision)]
        for record in sorted(waiting, key=lambda one: one.pulled_at, reverse=True):
            stored = self._stored(record)
            if len(stored) < len(record.files):
                return self._incomplete(record, stored)
        refs, snapshots = self.folder.refs(), self.folder.snapshot_commits()
        if arriving := find_commit(revision, refs, {*snapshots, *refs.values()}):
            return RevisionIncompleteError(_NO_RECORD.format(repo=repo, commit_hash=arriving))
        if nothing_visible or len(self._records()) < len(self.commits()):
            return RevisionIncompleteError(
                f"{revision} of {repo} is not complete in this mirror: records of pulls are "
                "damaged or still arriving. Ask its operator to copy or pull it again."
            )
        return RevisionNotFoundError(repo, revision)

    def _is_target(self, pull: PullStatus, revision: str) -> bool:
        """Whether a pull brings the revision. A pull into an empty repository brings its HEAD."""
        names = {f"refs/heads/{pull.revision}": pull.commit_hash} if pull.revision else {}
        return not self.commits() or bool(find_commit(revision, names, [pull.commit_hash]))

    def _is_meant(self, record: Record, revision: str) -> bool:
        refs = dict.fromkeys(record.refs, record.commit_hash) | self.folder.refs()
        return find_commit(revision, refs, [record.commit_hash]) == record.commit_hash


def _being_pulled(pull: PullStatus) -> RevisionIncompleteError:
    return RevisionIncompleteError(
        f"{pull.repo} at {pull.commit_hash} is being pulled into this mirror: {pull.progress} have "
        "arrived. It is served when the pull ends.",
        brief=pull.text,
    )


def _has_size(path: str, size: int) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size
