"""Adds the revisions of other sources to the managed cache, by hard link if possible."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from mirror.core.errors import ConfigError, CorruptBlobError, HubmirrorError, os_error_text
from mirror.core.record import Record
from mirror.core.source import local_path
from mirror.core.tree import used_storage
from mirror.core.units import several
from mirror.store.cache import share
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Message, Planned, RevisionDone
from mirror.store.publish import publish
from mirror.store.verify_digest import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.core.repo import Repo
    from mirror.core.source import Snapshot, Source, StoredFile
    from mirror.store.cache import Cache
    from mirror.store.progress import Report


class Adopt:
    """One run of `hubmirror adopt`."""

    def __init__(self, cache: Cache, report: Report, *, as_whole: bool = False) -> None:
        """`as_whole` treats a revision as complete if the source has no list of its files."""
        self._cache = cache
        self._report = report
        self._as_whole = as_whole

    def run(self, source: Source, repos: Sequence[Repo]) -> list[str]:
        """Adopt every complete revision of the repositories. Returns the error messages."""
        self._cache.check_symlinks()
        snapshots, failed = [], []
        for repo in repos:
            try:
                snapshots += [source.snapshot(repo, commit) for commit in source.commits(repo)]
            except HubmirrorError as exc:
                failed.append(str(exc))
        files = sum(len(snapshot.files) for snapshot in snapshots)
        self._report(Planned(files, sum(map(_size, snapshots))))
        for snapshot in snapshots:
            try:
                self._adopt(source, snapshot)
            except HubmirrorError as exc:
                failed.append(f"{snapshot.repo} at {snapshot.commit_hash[:12]}: {exc}")
            except OSError as exc:
                failed.append(f"{snapshot.repo}: {os_error_text(exc, self._cache.root)}")
        for text in failed:
            self._report(Message("error", text))
        return failed

    def _adopt(self, source: Source, snapshot: Snapshot) -> None:
        repo, commit = snapshot.repo, snapshot.commit_hash
        folder = self._cache.folder(repo)
        source_refs = [name for name, target in source.refs(repo).items() if target == commit]
        # A ref that a pull moved to another commit keeps that commit.
        refs = tuple(name for name in source_refs if folder.points_to(name) in ("", commit))
        size = used_storage(stored.file for stored in snapshot.files.values())
        if folder.record(commit).exists():
            files = len(snapshot.files)
            self._report(RevisionDone(repo, commit, "already managed", files, size))
            return
        with self._cache.lock(repo, lambda: None):
            for stored in snapshot.files.values():
                if not stored.problem:
                    self._add_blob(repo, stored)
            self._check_complete(snapshot)
            record = Record(
                repo=repo,
                commit_hash=commit,
                files={path: stored.file for path, stored in snapshot.files.items()},
                refs=refs,
                pulled_at=datetime.now(UTC),
                upstream=f"adopted from {source.label.partition(':')[0]}",
                info=snapshot.info,
            )
            publish(self._cache.root, record)
        self._report(RevisionDone(repo, commit, "adopted", len(snapshot.files), size))

    def _check_complete(self, snapshot: Snapshot) -> None:
        """Raises ConfigError if files are missing, or if the source has no list of the files. The
        present files are already adopted, so that a pull fetches only the missing files."""
        pull = f"`hubmirror pull {snapshot.repo}@{snapshot.commit_hash}`"
        count = len(snapshot.files) - len(snapshot.problems)
        adopted = f"Adopted {several(count, 'present file')}."
        if snapshot.problem_text:
            raise ConfigError(
                f"{snapshot.problem_text}. {adopted} Mend the folder and run this command again, "
                f"or fetch the rest and publish the revision with {pull}."
            )
        if snapshot.absent:
            path, reason = next(iter(snapshot.absent.items()))
            raise ConfigError(
                f"the revision lacks {several(len(snapshot.absent), 'file')} (first: {path}). "
                f"{reason} {adopted} Fetch the rest and publish the revision with {pull}."
            )
        if not snapshot.whole and not self._as_whole:
            raise ConfigError(
                "the source has no list of all files, so the revision may be incomplete. "
                f"{adopted} If you have network access, complete the revision with {pull}. If you "
                "know that these are all files, run this command again with --as-whole: the mirror "
                "then answers 404 for any other file."
            )

    def _add_blob(self, repo: Repo, stored: StoredFile) -> None:
        """Check the digest of a file, and add it as a blob."""
        file, folder = stored.file, self._cache.folder(repo)
        self._report(FileBegan(repo, file.path, file.size))
        if self._cache.has(folder, file):
            if digest(folder.blobs / file.etag, file.etag, file.size) != file.etag:
                raise CorruptBlobError(file.path, "its bytes do not match its digest")
        else:
            staged = self._cache.staging(repo) / file.etag
            staged.parent.mkdir(parents=True, exist_ok=True)
            advanced = partial(FileAdvanced, repo, file.path)
            if not share(local_path(stored), staged):
                raise CorruptBlobError(file.path, "it cannot be read")
            with contextlib.ExitStack() as stack:
                stack.callback(staged.unlink, missing_ok=True)
                self._cache.accept(
                    folder, file, staged, lambda count: self._report(advanced(count))
                )
        self._report(FileDone(repo, file.path, file.size))


def _size(snapshot: Snapshot) -> int:
    return sum(stored.file.size for stored in snapshot.files.values())
