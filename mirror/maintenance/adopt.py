"""Making what lies in another folder a managed repository, by hard link where that can be."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from mirror.core.errors import ConfigError, CorruptBlobError, HubmirrorError
from mirror.core.record import Record
from mirror.core.source import local_path
from mirror.core.tree import used_storage
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
        """With `as_whole`, a revision is taken as whole where nobody knows what it lacks."""
        self._cache = cache
        self._report = report
        self._as_whole = as_whole

    def run(self, source: Source, repos: Sequence[Repo]) -> list[str]:
        """Adopt every revision of the repositories that is whole; what failed, in words."""
        found, failed = [], []
        for repo in repos:
            try:
                found += [source.snapshot(repo, one) for one in source.commits(repo)]
            except HubmirrorError as exc:
                failed.append(str(exc))
        files = sum(len(snapshot.files) for snapshot in found)
        self._report(Planned(files, sum(map(_size, found))))
        for snapshot in found:
            try:
                self._adopt(source, snapshot)
            except HubmirrorError as exc:
                failed.append(f"{snapshot.repo} at {snapshot.commit_hash[:12]}: {exc}")
            except OSError as exc:
                failed.append(f"{snapshot.repo} could not be written: {exc.strerror}.")
        for text in failed:
            self._report(Message("error", text))
        return failed

    def _adopt(self, source: Source, snapshot: Snapshot) -> None:
        repo, commit = snapshot.repo, snapshot.commit_hash
        folder = self._cache.folder(repo)
        named = [name for name, target in source.refs(repo).items() if target == commit]
        # One that a pull has moved on, or that points here already, stays.
        refs = tuple(name for name in named if folder.points_to(name) in ("", commit))
        size = used_storage(stored.file for stored in snapshot.files.values())
        if folder.record(commit).exists():
            told = RevisionDone(repo, commit, "managed already", len(snapshot.files), size)
            self._report(told)
            return
        with self._cache.lock(repo, lambda: None):
            for stored in snapshot.files.values():
                self._take(repo, stored)
            self._check(snapshot)
            files = {path: stored.file for path, stored in snapshot.files.items()}
            record = Record(
                repo=repo,
                commit_hash=commit,
                files=files,
                refs=refs,
                pulled_at=datetime.now(UTC),
                upstream=f"adopted from {source.label.partition(':')[0]}",
                info=snapshot.info,
            )
            publish(self._cache.root, record)
        self._report(RevisionDone(repo, commit, "adopted", len(files), size))

    def _check(self, snapshot: Snapshot) -> None:
        """Raises ConfigError where files are missing, or may be; those that are there were taken,
        so that a pull needs to fetch the rest alone."""
        pull = f"`hubmirror pull {snapshot.repo}@{snapshot.commit_hash}`"
        taken = f"The {len(snapshot.files)} files that are there were taken"
        if snapshot.absent:
            path, reason = next(iter(snapshot.absent.items()))
            raise ConfigError(
                f"it is not whole: {path} is not there, and {len(snapshot.absent) - 1} others. "
                f"{reason} {taken}; {pull} fetches the rest, and makes it visible."
            )
        if not snapshot.whole and not self._as_whole:
            raise ConfigError(
                f"nobody here knows whether it is whole. {taken}. If they are all, run it again "
                "with --as-whole (any other will be told not to exist); where there is a network, "
                f"{pull} makes sure, and makes it visible."
            )

    def _take(self, repo: Repo, stored: StoredFile) -> None:
        """Prove a file, and give it its blob's name."""
        file, folder = stored.file, self._cache.folder(repo)
        if stored.problem:
            raise CorruptBlobError(file.path, stored.problem)
        self._report(FileBegan(repo, file.path, file.size))
        if self._cache.has(folder, file):
            if digest(folder.blobs / file.etag, file.etag, file.size) != file.etag:
                raise CorruptBlobError(file.path, "its bytes are not what its name says")
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
