"""Bringing revisions from a hub into a managed cache.

First all that is wanted is asked for and compared with what is here; then missing blobs are
fetched, several at once, each proven before it gets its name; and a revision is published when
its last blob is in place. Killed at any point, it is run again, and fetches what is missing.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from mirror.core.errors import (
    ConfigError,
    CorruptBlobError,
    HubmirrorError,
    UpstreamError,
)
from mirror.core.files import remove_tree
from mirror.core.record import Record
from mirror.core.repo import short_ref
from mirror.core.tree import used_storage
from mirror.core.units import human
from mirror.store.progress import (
    FileAdvanced,
    FileBegan,
    FileDone,
    Message,
    Planned,
    RevisionDone,
)
from mirror.store.publish import publish
from mirror.store.verify_digest import TailHasher, digest
from mirror.store.worker_pool import results, threads
from mirror.sync.completeness import files_missing, is_linked, read_file, read_record
from mirror.sync.dependencies import Need, needs
from mirror.sync.filters import Filters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.config import RepoSpec
    from mirror.core.repo import Repo
    from mirror.core.tree import RepoFile
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache
    from mirror.store.progress import Report
    from mirror.sync.upstream import Head, Upstream

_TRANSFERS = 8
_QUESTIONS = 8
_FETCHES = 3  # of one file whose bytes come wrong
_MIN_FREE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PullPlan:
    """One revision that is to be here. `missing` are the files whose blobs are not."""

    spec: RepoSpec
    head: Head
    record: Record
    missing: tuple[RepoFile, ...]
    is_new: bool
    widens: bool = False

    @property
    def missing_size(self) -> int:
        """Bytes that are not here; files of the same content once."""
        return used_storage(self.missing)


@dataclass(slots=True)
class Outcome:
    """What a run did. `needs` are repositories that what was pulled names, here or not."""

    done: list[PullPlan] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)


class Pull:
    """One run of `hubmirror pull`."""

    def __init__(self, cache: Cache, upstream: Upstream, report: Report) -> None:
        self._cache = cache
        self._upstream = upstream
        self._report = report
        self._failed: list[str] = []
        self._wanted_here: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def plan(self, specs: Sequence[RepoSpec]) -> list[PullPlan]:
        """What each wish comes to. One that fails is reported, and is not among the plans."""
        if self._cache.identity() in self._upstream.identities():
            raise ConfigError(
                f"{self._upstream.endpoint} is this mirror itself. "
                "Name another hub with --upstream."
            )
        with threads(_QUESTIONS, "questions") as pool:
            planned = results(pool, self._try_plan, specs)
        return [plan for plan in planned if plan is not None]

    def to_fetch(self, plans: Sequence[PullPlan]) -> dict[str, int]:
        """What must come from upstream, by etag, in bytes: each content once, and none that another
        repository has."""
        missing = {file.etag: file for plan in plans for file in plan.missing}
        return {etag: one.size for etag, one in missing.items() if not self._cache.twin(one)}

    def run(self, plans: Sequence[PullPlan]) -> Outcome:
        """Fetch and publish; nothing at all where the disk is too small."""
        outcome = Outcome(failed=self._failed)
        if problem := self.lack_of_space(plans):
            self._fail(problem)
            return outcome
        wanted = self.to_fetch(plans)
        self._report(Planned(len(wanted), sum(wanted.values())))
        with (
            threads(_TRANSFERS, "transfers") as transfers,
            threads(_QUESTIONS, "revisions") as revisions,
        ):
            done = results(revisions, lambda plan: self._try_fill(plan, transfers), plans)
            outcome.done = [plan for plan in done if plan is not None]
        outcome.needs = list(self._needs(outcome.done))
        return outcome

    def _try_plan(self, spec: RepoSpec) -> PullPlan | None:
        try:
            return self._plan(spec)
        except HubmirrorError as exc:
            self._fail(str(exc))
            return None

    def _plan(self, spec: RepoSpec) -> PullPlan:
        head = self._upstream.head(spec.repo, spec.revision)
        if head.renamed_to:
            self._note(
                "warning",
                f"{spec.repo} is called {head.renamed_to} upstream. It is kept under the name that "
                "was asked for; clients that ask for the new one do not find it here.",
            )
        folder = self._cache.folder(head.repo)
        head = replace(head, repo=folder.repo)
        known = read_record(folder, head.commit_hash)
        if known is None:
            files, pinned = self._upstream.tree(head), frozenset[str]()
        else:
            files, pinned = {**known.files, **known.left_out}, frozenset(known.files)
        filters = Filters(spec.include, spec.exclude)
        wanted = {path: file for path, file in files.items() if path in pinned or filters(path)}
        if not wanted:
            cause = "passes the filters" if files else "is on the hub: the repository is empty"
            raise UpstreamError(f"No file of {head.repo} {cause}. Nothing is pulled.")
        refs = self._refs(folder, known, head, spec.revision)
        record = Record(
            repo=head.repo,
            commit_hash=head.commit_hash,
            files=wanted,
            left_out={path: file for path, file in files.items() if path not in wanted},
            refs=refs,
            pulled_at=datetime.now(UTC),
            upstream=self._upstream.endpoint,
            info=head.info,
        )
        missing = files_missing(self._cache, folder, record)
        return PullPlan(
            spec,
            head,
            record,
            missing,
            is_new=known is None
            or not _says_the_same(known, record)
            or not is_linked(folder, record),
            widens=known is not None and len(wanted) > len(known.files),
        )

    def _refs(
        self, folder: RepoDir, known: Record | None, head: Head, revision: str
    ) -> tuple[str, ...]:
        """The refs that point to the commit after this pull."""
        refs = _refs_left(folder, known)
        if known is None and revision == head.commit_hash:
            here = folder.refs()  # its record was lost, and they are what is left of it
            return tuple(name for name, commit in here.items() if commit == revision)
        if any(revision in (ref, short_ref(ref)) for ref in refs):
            return refs
        name = self._upstream.ref_name(head, revision)
        return (*refs, name) if name and name not in refs else refs

    def lack_of_space(self, plans: Sequence[PullPlan]) -> str:
        """What to tell of a disk that is too small; empty where it will do."""
        wanted = sum(self.to_fetch(plans).values())
        for repo in {plan.record.repo for plan in plans if plan.missing}:
            with self._cache.try_lock(repo.folder_name) as is_free:
                if is_free:
                    self._forget_partial(repo)
        free = shutil.disk_usage(self._cache.root).free
        if not wanted or wanted + _MIN_FREE <= free:
            return ""
        return (
            f"The disk is too small: {human(wanted)} are to be pulled, and {human(free)} are "
            f"free. Make room for {human(wanted + _MIN_FREE - free)} (hubmirror gc, "
            "hubmirror rm), or pull less with --include and --exclude."
        )

    def _try_fill(self, plan: PullPlan, transfers: ThreadPoolExecutor) -> PullPlan | None:
        try:
            return self._fill(plan, transfers)
        except HubmirrorError as exc:
            self._fail(str(exc))
        except OSError as exc:
            self._fail(f"{plan.record.repo} could not be written: {exc.strerror}.")
        return None

    def _fill(self, plan: PullPlan, transfers: ThreadPoolExecutor) -> PullPlan:
        record, repo = plan.record, plan.record.repo
        if not plan.missing and not plan.is_new:
            self._tell(plan, "up to date")
            return plan
        if plan.widens:
            self._note(
                "warning",
                f"{repo} at {record.commit_hash[:12]} was served with fewer files before. Clients "
                "of huggingface_hub 2 keep the first listing of a commit, and will not see the "
                "new ones until their cache of it is removed.",
            )
        waiting = f"Another pull works on {repo}; waiting for it."
        with (
            self._turn(repo.key),
            self._cache.lock(repo, lambda: self._note("info", waiting)),
        ):
            folder = self._cache.folder(repo)
            record = _merged(folder, record, plan.spec.revision)
            self._forget_partial(repo)
            if not folder.recorded_commits():
                self._prove(folder, record, transfers)
            distinct = {file.etag: file for file in files_missing(self._cache, folder, record)}
            jobs = [transfers.submit(self._bring, plan, folder, file) for file in distinct.values()]
            wait(jobs)  # so that nothing of a pull that fails is at work without the lock
            for job in jobs:
                job.result()
            publish(self._cache.root, record)
            remove_tree(self._cache.staging(repo))
        self._tell(plan, "pulled")
        return plan

    def _prove(self, folder: RepoDir, record: Record, readers: ThreadPoolExecutor) -> None:
        """Read what is here of a repository that has no record: it may be of a pull that was
        killed, but somebody may have copied it, too."""
        here = [file for file in record.files.values() if self._cache.has(folder, file)]
        if not here:
            return
        size = human(used_storage(here))
        self._note("info", f"{record.repo}: {size} are here, without a record; they are read.")

        def is_right(file: RepoFile) -> bool:
            return digest(folder.blobs / file.etag, file.etag, file.size) == file.etag

        distinct = list({file.etag: file for file in here}.values())
        for file, right in zip(distinct, readers.map(is_right, distinct), strict=True):
            if not right:
                self._cache.set_aside(folder, file.etag)
                self._note("warning", f"{record.repo}: {file.path} is corrupt, and is fetched.")

    def _forget_partial(self, repo: Repo) -> None:
        """Remove what huggingface_hub had half fetched when a pull was killed: it begins anew."""
        for path in self._cache.staging(repo).rglob("*.incomplete"):
            path.unlink(missing_ok=True)

    def _bring(self, plan: PullPlan, folder: RepoDir, file: RepoFile) -> None:
        """Put one blob in its place: from another repository, from an earlier try, or from
        upstream."""
        repo = plan.record.repo
        self._report(FileBegan(repo, file.path, file.size))
        with self._turn(file.etag):
            if not self._cache.link_twin(folder, file):
                self._fetch(plan, folder, file)
        self._report(FileDone(repo, file.path, file.size))

    def _fetch(self, plan: PullPlan, folder: RepoDir, file: RepoFile) -> None:
        repo, staging = plan.record.repo, self._cache.staging(plan.record.repo)
        for left in reversed(range(_FETCHES)):
            came = 0

            def advanced(count: int) -> None:
                nonlocal came
                came += count
                if count < 0:
                    following.invalidate()
                self._report(FileAdvanced(repo, file.path, count))

            try:
                under_way = self._upstream.under_way(file, staging)
                with TailHasher(file, under_way) as following:
                    staged = self._upstream.fetch(plan.head, file, staging, advanced)
                    found = following.digest(staged)
                self._cache.accept(folder, file, staged, found=found)
            except CorruptBlobError as exc:
                self._report(FileAdvanced(repo, file.path, -came))
                if not left:
                    raise UpstreamError(
                        f"{exc} {self._upstream.endpoint} sent it so {_FETCHES} times; nothing of "
                        "it was kept. Pull from another hub, or tell the operator of that one."
                    ) from exc
                self._note("warning", f"{repo}: {exc} It is fetched again.")
            else:
                return

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """One at a time for one content, so that the second finds what the first brought; and for
        one repository."""
        with self._guard:
            turn = self._wanted_here.setdefault(name, threading.Lock())
        with turn:
            yield

    def _needs(self, done: Sequence[PullPlan]) -> Iterator[Need]:
        asked: set[str] = set()
        for plan in done:
            folder = self._cache.folder(plan.record.repo)
            for need in needs(plan.record.repo, partial(read_file, folder, plan.record)):
                if need.repo.key not in asked:
                    asked.add(need.repo.key)
                    yield need

    def _tell(self, plan: PullPlan, outcome: str) -> None:
        record = plan.record
        files, size = len(record.files), used_storage(record.files.values())
        self._report(RevisionDone(record.repo, record.commit_hash, outcome, files, size))

    def _note(self, level: str, text: str) -> None:
        self._report(Message(level, text))

    def _fail(self, text: str) -> None:
        self._failed.append(text)
        self._note("error", text)


def _merged(folder: RepoDir, record: Record, revision: str) -> Record:
    """The record with what another pull of the commit added since it was planned, and without the
    refs that another has moved on, but for the one that was asked for."""
    here = (record.commit_hash, "")
    asked = [name for name in record.refs if revision in (name, short_ref(name))]
    stayed = [name for name in record.refs if name in asked or folder.points_to(name) in here]
    record = replace(record, refs=tuple(stayed))
    known = read_record(folder, record.commit_hash)
    if known is None:
        return record
    files = {**known.files, **record.files}
    tree = {**known.files, **known.left_out, **record.files, **record.left_out}
    left_out = {path: file for path, file in tree.items() if path not in files}
    refs = dict.fromkeys((*_refs_left(folder, known), *record.refs))
    return replace(record, files=files, left_out=left_out, refs=tuple(refs))


def _refs_left(folder: RepoDir, known: Record | None) -> tuple[str, ...]:
    """The refs of a record that have not moved on to another commit."""
    if known is None:
        return ()
    mine = (known.commit_hash, "")
    return tuple(name for name in known.refs if folder.points_to(name) in mine)


def _says_the_same(known: Record, record: Record) -> bool:
    """Whether a pull has nothing to add to a record."""
    return (known.files.keys(), set(known.refs)) == (record.files.keys(), set(record.refs))
