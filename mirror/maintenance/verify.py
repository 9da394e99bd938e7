"""Checks every file, symlink, ref and tree file of a source, and reports problems."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mirror.core.errors import HubmirrorError, RevisionIncompleteError
from mirror.core.record import ManifestError
from mirror.core.source import local_path
from mirror.core.tree import listed_path
from mirror.core.units import several
from mirror.derived.proofs import CORRUPT, CorruptFiles
from mirror.sources.scan import files_below
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Message, Planned
from mirror.store.verify_digest import digest
from mirror.store.worker_pool import results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from mirror.core.record import Record
    from mirror.core.repo import Repo
    from mirror.core.source import Snapshot, Source, StoredFile
    from mirror.core.tree import RepoFile
    from mirror.derived.state import State
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache
    from mirror.store.progress import Report


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a repository. `kind` is `missing`, `truncated`, `corrupt`, `dangling`, `stray`,
    `partial`, `unreadable` or `unproven`. `revisions` are the affected commit hashes."""

    repo: Repo
    path: str
    kind: str
    text: str
    revisions: tuple[str, ...] = ()

    @property
    def is_harmful(self) -> bool:
        """Whether something is damaged. A stray blob affects no client, and a cache that never held
        all files of a commit is as its owner made it."""
        return self.kind not in ("stray", "partial")


@dataclass(frozen=True, slots=True)
class Check:
    """A file to check; `when_corrupt` is called if its bytes do not match its digest."""

    repo: Repo
    file: RepoFile
    location: Path
    revisions: tuple[str, ...]
    when_corrupt: Callable[[], None]


class Verify:
    """One run of `hubmirror verify`, with one thread per core."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._digests: dict[tuple[int, int, int], tuple[threading.Lock, list[str]]] = {}
        self._guard = threading.Lock()
        self._failed: set[str] = set()
        self._stopped = threading.Event()

    def cache(
        self, cache: Cache, folders: Iterable[RepoDir], *, commits: bool = False
    ) -> list[Problem]:
        """Check a managed cache. Corrupt blobs are set aside and not served. With `commits`, each
        revision must also be proven by its commit object."""
        problems: list[Problem] = []
        checks: list[Check] = []
        for folder in folders:
            records, damaged = _records(folder)
            problems += damaged
            wanted = _wanted(records)
            checks += [
                Check(
                    folder.repo,
                    file,
                    folder.blobs / etag,
                    revisions,
                    partial(cache.set_aside, folder, etag),
                )
                for etag, (file, revisions) in wanted.items()
            ]
            problems += _link_problems(folder, records)
            problems += _pointer_problems(folder, records)
            if commits:
                problems += _unproven(folder, records)
            if not damaged:
                problems += _stray_blobs(folder, wanted)
        return problems + self._run(checks)

    def source(self, source: Source, repos: Sequence[Repo], state: State) -> list[Problem]:
        """Check repositories of a source that is served in place. Does not change the source.

        Corrupt files are recorded in the state folder, and not served until they are replaced.
        """
        problems: list[Problem] = []
        checks: list[Check] = []
        corrupt: list[str] = []
        for repo in repos:
            try:
                for commit in source.commits(repo):
                    snapshot = source.snapshot(repo, commit)
                    problems += _reported_problems(repo, snapshot)
                    checks += [
                        Check(
                            repo,
                            stored.file,
                            local_path(stored),
                            (commit,),
                            partial(corrupt.append, stored.local_path),
                        )
                        for stored in snapshot.files.values()
                        if stored.local_path and stored.problem in ("", CORRUPT)
                    ]
            except RevisionIncompleteError as exc:
                for path, reason in exc.absent.items():
                    problems.append(Problem(repo, path, "missing", f"{path} {reason}."))
                if not exc.absent:
                    problems.append(Problem(repo, "", "missing", str(exc)))
            except HubmirrorError as exc:
                problems.append(Problem(repo, "", "unreadable", str(exc)))
        found = self._run(checks)
        if source.root:
            sound = {str(check.location) for check in checks} - self._failed
            CorruptFiles(state, source.root).record(corrupt, sound)
        return problems + found

    def _run(self, checks: Sequence[Check]) -> list[Problem]:
        self._report(Planned(len(checks), sum(check.file.size for check in checks)))
        ordered = sorted(checks, key=lambda check: -check.file.size)
        with ThreadPoolExecutor(os.cpu_count() or 1, "verify") as pool:
            try:
                return [problem for problem in results(pool, self._check, ordered) if problem]
            except BaseException:
                self._stopped.set()
                raise

    def _advance(self, event: FileAdvanced) -> None:
        if self._stopped.is_set():
            raise OSError(errno.EINTR, "interrupted")
        self._report(event)

    def _check(self, check: Check) -> Problem | None:
        if self._stopped.is_set():
            return None
        repo, file = check.repo, check.file
        self._report(FileBegan(repo, file.path, file.size))
        problem = self._find_problem(check)
        if problem and problem.kind == "corrupt":
            try:
                check.when_corrupt()
            except OSError as exc:
                text = f"{problem.text} It cannot be set aside: {exc.strerror}."
                problem = replace(problem, text=text)
        if problem:
            self._failed.add(str(check.location))
            self._report(Message("error", f"{repo}: {problem.text}"))
        self._report(FileDone(repo, file.path, file.size))
        return problem

    def _find_problem(self, check: Check) -> Problem | None:
        file = check.file

        def problem(kind: str, text: str) -> Problem:
            return Problem(check.repo, file.path, kind, f"{file.path} {text}", check.revisions)

        try:
            status = check.location.lstat()
            if not check.location.is_file() or check.location.is_symlink():
                return problem("corrupt", "is not a regular file.")
            if status.st_size != file.size:
                kind = "truncated" if status.st_size < file.size else "corrupt"
                return problem(kind, f"has {status.st_size} bytes instead of {file.size}.")
            found = self._digest(check, (status.st_dev, status.st_ino, status.st_mtime_ns))
        except FileNotFoundError:
            return problem("missing", "is missing.")
        except OSError as exc:
            return problem("unreadable", f"cannot be read: {exc.strerror}.")
        if found != file.etag:
            return problem("corrupt", "is corrupt: its bytes do not match its digest.")
        return None

    def _digest(self, check: Check, inode: tuple[int, int, int]) -> str:
        """The digest of a file. Hard links of the same inode are read once."""
        with self._guard:
            lock, known = self._digests.setdefault(inode, (threading.Lock(), []))
        with lock:
            if not known:
                advanced = partial(FileAdvanced, check.repo, check.file.path)
                known.append(
                    digest(
                        check.location,
                        check.file.etag,
                        check.file.size,
                        lambda count: self._advance(advanced(count)),
                    )
                )
            return known[0]


def _records(folder: RepoDir) -> tuple[list[Record], list[Problem]]:
    records, problems = [], []
    for commit in folder.recorded_commits():
        try:
            records.append(folder.read_record(commit))
        except (OSError, ManifestError) as exc:
            name = f"hubmirror/{commit}.json"
            text = f"{name} is {exc}" if isinstance(exc, ManifestError) else f"{name} is unreadable"
            problems.append(Problem(folder.repo, name, "corrupt", text, (commit,)))
    return records, problems


def _reported_problems(repo: Repo, snapshot: Snapshot) -> Iterator[Problem]:
    """The problems that a source reports for the files of a snapshot, before they are read."""
    commit = snapshot.commit_hash
    for path, stored in snapshot.files.items():
        if stored.problem not in ("", CORRUPT):
            text = f"{path} cannot be served: {stored.problem}."
            yield Problem(repo, path, _kind(stored), text, (commit,))
    if snapshot.absent:
        count, path = len(snapshot.absent), min(snapshot.absent)
        others = f" and {several(count - 1, 'other file')}" if count > 1 else ""
        text = f"{commit[:12]} is partial: {path}{others} of the commit were never downloaded."
        yield Problem(repo, path, "partial", text, (commit,))


def _kind(stored: StoredFile) -> str:
    """The kind of the problem of a file that cannot be served."""
    if stored.local_path is None:
        return "unreadable"
    place = local_path(stored)
    if not place.exists():
        return "dangling" if place.is_symlink() else "missing"
    return "truncated" if place.stat().st_size < stored.file.size else "unreadable"


def _wanted(records: Iterable[Record]) -> dict[str, tuple[RepoFile, tuple[str, ...]]]:
    """Blobs by name, with the revisions that want them."""
    wanted: dict[str, tuple[RepoFile, tuple[str, ...]]] = {}
    for record in records:
        for file in record.files.values():
            revisions = wanted.get(file.etag, (file, ()))[1]
            wanted[file.etag] = (file, (*revisions, record.commit_hash))
    return wanted


def _unproven(folder: RepoDir, records: Iterable[Record]) -> Iterator[Problem]:
    """Revisions whose commit hash does not follow from their files and their commit object."""
    for record in records:
        commit, commit_hash = record.commit, record.commit_hash
        reason = (
            commit.problem(commit_hash, {**record.files, **record.left_out})
            if commit
            else "its commit object is not here; pull it again from a hub that offers git"
        )
        if reason:
            text = f"{commit_hash} is not proven: {reason}."
            yield Problem(folder.repo, "", "unproven", text, (commit_hash,))


def _link_problems(folder: RepoDir, records: Iterable[Record]) -> Iterator[Problem]:
    """Symlinks of the snapshots that are absent or do not point to their blobs."""
    for record in records:
        commit = record.commit_hash
        for path, file in record.files.items():
            link = folder.snapshot(commit) / path
            if link.is_symlink() and link.resolve() != (folder.blobs / file.etag).resolve():
                text = f"The symlink of {path} at {commit[:12]} does not point to its blob."
                yield Problem(folder.repo, path, "dangling", text, (commit,))
            elif not link.is_symlink() and not link.exists():
                text = f"{path} at {commit[:12]} has no symlink to its blob."
                yield Problem(folder.repo, path, "dangling", text, (commit,))


def _pointer_problems(folder: RepoDir, records: Sequence[Record]) -> Iterator[Problem]:
    """Records, tree files and refs that are absent or wrong."""
    if not folder.recorded_commits():
        text = (
            "The repository has no record: a copy is still running, or its first pull did not "
            "finish. Pull it again."
        )
        yield Problem(folder.repo, "hubmirror", "missing", text)
        return
    for record in records:
        commit = record.commit_hash
        if set(folder.read_tree(commit) or ()) != set(record.files):
            text = f"trees/{commit}.json does not list the files of the revision."
            yield Problem(folder.repo, f"trees/{commit}.json", "dangling", text, (commit,))
    for name, target in folder.refs().items():
        if target not in folder.recorded_commits():
            text = f"{name} points to a revision that the cache does not have. Pull it again."
            yield Problem(folder.repo, name, "dangling", text)


def _stray_blobs(
    folder: RepoDir, wanted: dict[str, tuple[RepoFile, tuple[str, ...]]]
) -> list[Problem]:
    try:
        names = list(map(listed_path, files_below(str(folder.blobs))))
    except OSError:
        return []
    return [
        Problem(folder.repo, f"blobs/{name}", "stray", f"blobs/{name} belongs to no revision.")
        for name in names
        if name not in wanted
    ]


def _do_nothing() -> None:
    """Keep a corrupt file of a source that is served in place."""
