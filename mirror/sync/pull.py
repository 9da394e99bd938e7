"""Pulls revisions from a hub into a managed cache.

`Pull.plan` resolves each spec and compares its files with the cache. `Pull.run` fetches the missing
blobs in parallel, checks the digest of each, and publishes a revision after its last blob. A pull
that was killed can run again at any time: it fetches only the missing blobs.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from mirror.core.errors import (
    ConfigError,
    CorruptBlobError,
    HubmirrorError,
    UpstreamError,
    os_error_text,
)
from mirror.core.files import remove_tree
from mirror.core.record import Record
from mirror.core.repo import Repo, short_ref, versions
from mirror.core.tree import used_storage
from mirror.core.units import human, several
from mirror.sources.pull_status import RunningPull
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
from mirror.sync.merge import current_refs, is_same_record, merged
from mirror.sync.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mirror.config.specs import RepoSpec
    from mirror.core.tree import RepoFile
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache
    from mirror.store.progress import Report
    from mirror.sync.upstream import Head, Upstream
    from mirror.sync.upstreams import Upstreams

_MAX_TRANSFERS = 8
_MAX_REQUESTS = 8
_MAX_FETCHES = 3  # tries for a file whose digest does not match
_MIN_FREE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PullPlan:
    """One revision to pull.

    `missing` are the files without a blob in the cache. `is_new` is true if the record, the links
    or the refs must be written. `widens` is true if a revision in the cache gets more files.
    """

    spec: RepoSpec
    head: Head
    record: Record
    missing: tuple[RepoFile, ...]
    is_new: bool
    widens: bool = False

    @property
    def missing_size(self) -> int:
        """The bytes of the missing files; files with the same content count once."""
        return used_storage(self.missing)


@dataclass(slots=True)
class Outcome:
    """The result of a run: finished plans, error messages, and the repositories that the pulled
    models need. `needs` includes repositories that the cache already has."""

    done: list[PullPlan] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)


class Pull:
    """One run of `hubmirror pull`."""

    def __init__(
        self, cache: Cache, upstreams: Upstreams, report: Report, rules: Rules | None = None
    ) -> None:
        self._cache = cache
        self._upstreams = upstreams
        self._report = report
        self._rules = rules or Rules()
        self._failed: list[str] = []
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def plan(self, specs: Sequence[RepoSpec]) -> list[PullPlan]:
        """Resolve each spec against upstream. Failures are reported and omitted; `failed` counts
        them.

        Raises ConfigError if upstream is this mirror itself.
        """
        for upstream in {self._upstreams.of(spec.repo) for spec in specs}:
            if self._cache.identity() in upstream.identities():
                raise ConfigError(
                    f"{upstream.endpoint} is this mirror itself. Name another hub with --upstream "
                    "or in [[upstream]]."
                )
        with threads(_MAX_REQUESTS, "requests") as pool:
            revisions = itertools.chain.from_iterable(results(pool, self._try_revisions, specs))
            plans = results(pool, self._try_plan, list(revisions))
        return [plan for plan in plans if plan is not None]

    @property
    def failed(self) -> int:
        """The count of failures until now."""
        return len(self._failed)

    def to_fetch(self, plans: Sequence[PullPlan]) -> dict[str, int]:
        """The blobs to fetch from upstream: etag to size in bytes. Omits blobs that another
        repository of the cache has."""
        missing = {file.etag: file for plan in plans for file in plan.missing}
        return {
            etag: file.size for etag, file in missing.items() if not self._cache.find_blob(file)
        }

    def run(self, plans: Sequence[PullPlan]) -> Outcome:
        """Fetch and publish the plans. Fetches nothing if the disk is too small."""
        outcome = Outcome(failed=self._failed)
        self._check_disk()
        if problem := self.lack_of_space(plans):
            self._fail(problem)
            return outcome
        sizes = self.to_fetch(plans)
        self._report(Planned(len(sizes), sum(sizes.values())))
        with (
            threads(_MAX_TRANSFERS, "transfers") as transfers,
            threads(_MAX_REQUESTS, "revisions") as revisions,
        ):
            done = results(revisions, lambda plan: self._try_fill(plan, transfers), plans)
            outcome.done = [plan for plan in done if plan is not None]
        outcome.needs = list(self._needs(outcome.done))
        return outcome

    def _try_revisions(self, spec: RepoSpec) -> list[RepoSpec]:
        """One spec for each revision that a spec stands for, if no rule refuses the repository."""
        try:
            self._rules.check_repo(spec.repo)
            if not spec.is_all_versions:
                return [spec]
            names = versions(self._upstreams.of(spec.repo).branches(spec.repo))
        except HubmirrorError as exc:
            self._fail(str(exc))
            return []
        return [replace(spec, revision=name) for name in names]

    def _try_plan(self, spec: RepoSpec) -> PullPlan | None:
        try:
            return self._plan(spec)
        except HubmirrorError as exc:
            self._fail(str(exc))
            return None

    def _plan(self, spec: RepoSpec) -> PullPlan:
        upstream = self._upstreams.of(spec.repo)
        head = upstream.head(spec.repo, spec.commit_hash or spec.revision)
        if head.renamed_to:
            self._rules.check_repo(Repo.parse(head.renamed_to))
            self._note(
                "warning",
                f"{spec.repo} is named {head.renamed_to} upstream. The mirror serves it only as "
                f"{spec.repo}. To serve the new name, pull {head.renamed_to}.",
            )
        folder = self._cache.folder(head.repo)
        head = replace(head, repo=folder.repo)
        known = read_record(folder, head.commit_hash)
        if known is None:
            files, recorded = upstream.tree(head), frozenset[str]()
        else:
            files, recorded = {**known.files, **known.left_out}, frozenset(known.files)
        wanted = self._wanted(spec, head, files, recorded)
        refs = self._refs(folder, known, head, spec.revision)
        record = Record(
            repo=head.repo,
            commit_hash=head.commit_hash,
            files=wanted,
            left_out={path: file for path, file in files.items() if path not in wanted},
            refs=refs,
            pulled_at=datetime.now(UTC),
            upstream=upstream.endpoint,
            info=head.info,
            organization=upstream.publisher(head.repo),
            **self._commit(upstream, head, files, known),
        )
        missing = files_missing(self._cache, folder, record)
        for file in missing:  # one may be recorded since before the rule
            self._rules.check_file(head.repo, file)
        return PullPlan(
            spec,
            head,
            record,
            missing,
            is_new=known is None
            or not is_same_record(known, record)
            or not is_linked(folder, record),
            widens=known is not None and len(wanted) > len(known.files),
        )

    def _wanted(
        self, spec: RepoSpec, head: Head, files: Mapping[str, RepoFile], recorded: frozenset[str]
    ) -> dict[str, RepoFile]:
        """The recorded files, and those that match the filters and that no rule refuses."""
        filters = Filters(spec.include, spec.exclude)
        wanted = {path: file for path, file in files.items() if path in recorded or filters(path)}
        if not wanted:
            raise UpstreamError(
                f"{head.repo} has no file that matches the filters. Change --include and --exclude."
                if files
                else f"{head.repo} has no files upstream. Nothing was pulled."
            )
        new = (file for path, file in wanted.items() if path not in recorded)
        refused = self._rules.refused(head.repo, new)
        if len(refused) == len(wanted):
            raise next(iter(refused.values()))
        if refused:
            first = next(iter(refused.values()))
            count = several(len(refused), "file")
            self._note("warning", f"{head.repo}: {count} left out by rules. The first: {first}")
        return {path: file for path, file in wanted.items() if path not in refused}

    def _commit(
        self, upstream: Upstream, head: Head, files: Mapping[str, RepoFile], known: Record | None
    ) -> dict[str, Any]:
        """The fields of the record about the commit object. Upstream is asked once."""
        if known and (known.commit or (known.no_git and known.upstream == upstream.endpoint)):
            return {"commit": known.commit, "no_git": known.no_git}
        try:
            commit = upstream.commit(head, files)
        except UpstreamError as exc:
            self._note(
                "warning",
                f"{head.repo}: its commit object was not fetched ({exc}), so that the mirror does "
                "not offer it by git. To offer it, pull it again.",
            )
            return {}
        return {"commit": commit, "no_git": commit is None}

    def _refs(
        self, folder: RepoDir, known: Record | None, head: Head, revision: str
    ) -> tuple[str, ...]:
        """The refs that point to the commit after this pull."""
        refs = current_refs(folder, known)
        if known is None and revision == head.commit_hash:
            local_refs = folder.refs()  # the record may be damaged: keep the refs of the commit
            return tuple(name for name, commit in local_refs.items() if commit == revision)
        if any(revision in (ref, short_ref(ref)) for ref in refs):
            return refs
        name = self._upstreams.of(head.repo).ref_name(head, revision)
        return (*refs, name) if name and name not in refs else refs

    def _check_disk(self) -> None:
        """Raises ConfigError if the file system cannot hold a revision."""
        self._cache.check_symlinks()
        if not self._cache.has_locks:
            self._note(
                "warning",
                f"The file system of {self._cache.root} has no locks. Two pulls of a repository at "
                "the same time fetch its files twice. Remove nothing while a pull runs.",
            )

    def lack_of_space(self, plans: Sequence[PullPlan]) -> str:
        """An error message if the disk is too small for the plans, else an empty string.

        Removes partial downloads first, since they count as used space.
        """
        size = sum(self.to_fetch(plans).values())
        for repo in {plan.record.repo for plan in plans if plan.missing}:
            with self._cache.try_lock(repo.folder_name) as is_free:
                if is_free:
                    self._remove_partial(repo)
        free = shutil.disk_usage(self._cache.root).free
        if not size or size + _MIN_FREE <= free:
            return ""
        return (
            f"The disk is too small: the pull needs {human(size)}, and {human(free)} are free. "
            f"{human(_MIN_FREE)} of them must stay free. Free another "
            f"{human(size + _MIN_FREE - free)} with `hubmirror gc` or `hubmirror "
            "rm`, or pull less with --include and --exclude."
        )

    def _try_fill(self, plan: PullPlan, transfers: ThreadPoolExecutor) -> PullPlan | None:
        try:
            return self._fill(plan, transfers)
        except HubmirrorError as exc:
            self._fail(str(exc))
        except OSError as exc:
            self._fail(f"{plan.record.repo}: {os_error_text(exc, self._cache.root)}")
        return None

    def _fill(self, plan: PullPlan, transfers: ThreadPoolExecutor) -> PullPlan:
        record, repo = plan.record, plan.record.repo
        if not plan.missing and not plan.is_new:
            self._report_done(plan, "up to date")
            return plan
        if plan.widens:
            self._note(
                "warning",
                f"{repo} at {record.commit_hash[:12]} was served with fewer files before. Clients "
                "with huggingface_hub 2 keep the first file list of a commit. To see the new "
                "files, they must remove the repository from their cache.",
            )
        waiting = f"Waiting for another pull of {repo} to finish."
        with (
            self._exclusive(repo.key),
            self._cache.lock(repo, lambda: self._note("info", waiting)),
        ):
            self._transfer(plan, transfers)
        self._report_done(plan, "pulled")
        return plan

    def _transfer(self, plan: PullPlan, transfers: ThreadPoolExecutor) -> None:
        """Fetch the missing blobs, and publish the revision. The caller holds the lock."""
        repo, revision = plan.record.repo, plan.spec.revision
        folder = self._cache.folder(repo)
        folder.path.mkdir(exist_ok=True)  # readers answer that the repository is being pulled
        record = merged(folder, plan.record, revision)
        with RunningPull(
            self._cache.root, repo, revision, record.commit_hash, plan.missing_size
        ) as running:
            self._remove_partial(repo)
            if not folder.recorded_commits():
                self._check_local(folder, record, transfers)
            missing = files_missing(self._cache, folder, record)
            running.size = used_storage(missing)
            distinct = {file.etag: file for file in missing}.values()
            jobs = [
                transfers.submit(self._add_blob, plan, folder, file, running) for file in distinct
            ]
            wait(jobs)  # after a failure too: no job may run without the lock
            for job in jobs:
                job.result()
            publish(self._cache.root, record)
        remove_tree(self._cache.staging(repo))

    def _check_local(self, folder: RepoDir, record: Record, readers: ThreadPoolExecutor) -> None:
        """Check the digests of the blobs of a repository without a record: they may come from a
        pull that was killed, or from a copy."""
        present = [file for file in record.files.values() if self._cache.has(folder, file)]
        if not present:
            return
        size = human(used_storage(present))
        self._note("info", f"{record.repo}: checking {size} of local files without a record.")

        def is_right(file: RepoFile) -> bool:
            return digest(folder.blobs / file.etag, file.etag, file.size) == file.etag

        distinct = list({file.etag: file for file in present}.values())
        for file, right in zip(distinct, readers.map(is_right, distinct), strict=True):
            if not right:
                self._cache.set_aside(folder, file.etag)
                self._note(
                    "warning", f"{record.repo}: {file.path} is corrupt. It is fetched again."
                )

    def _remove_partial(self, repo: Repo) -> None:
        """Remove partial downloads of a pull that was killed: huggingface_hub starts them again."""
        for path in self._cache.staging(repo).rglob("*.incomplete"):
            path.unlink(missing_ok=True)

    def _add_blob(
        self, plan: PullPlan, folder: RepoDir, file: RepoFile, running: RunningPull
    ) -> None:
        """Add one blob: by hard link from another repository, or by a fetch from upstream."""
        repo = plan.record.repo
        self._report(FileBegan(repo, file.path, file.size))
        with self._exclusive(file.etag):
            if self._cache.link_existing_blob(folder, file):
                running.advance(file.size)
            else:
                self._fetch(plan, folder, file, running)
        self._report(FileDone(repo, file.path, file.size))

    def _fetch(self, plan: PullPlan, folder: RepoDir, file: RepoFile, running: RunningPull) -> None:
        repo, staging = plan.record.repo, self._cache.staging(plan.record.repo)
        upstream = self._upstreams.of(repo)
        for tries_left in reversed(range(_MAX_FETCHES)):
            received = 0

            def advanced(count: int) -> None:
                nonlocal received
                received += count
                if count < 0:
                    hasher.invalidate()
                running.advance(count)
                self._report(FileAdvanced(repo, file.path, count))

            try:
                with TailHasher(file, upstream.incomplete_path(file, staging)) as hasher:
                    staged = upstream.fetch(plan.head, file, staging, advanced)
                    found = hasher.digest(staged)
                self._cache.accept(folder, file, staged, found=found)
            except CorruptBlobError as exc:
                running.advance(-received)
                self._report(FileAdvanced(repo, file.path, -received))
                if not tries_left:
                    raise UpstreamError(
                        f"{exc} {upstream.endpoint} sent wrong bytes {_MAX_FETCHES} times, "
                        "and they were removed. Pull from another hub, or contact the operator of "
                        "this hub."
                    ) from exc
                self._note("warning", f"{repo}: {exc} It is fetched again.")
            else:
                running.advance(file.size - received)  # a file of a killed pull was complete
                return

    @contextlib.contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        """Hold the lock of a repository or of an etag, among the threads of this pull. A second
        thread for an etag then finds the blob of the first thread."""
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            yield

    def _needs(self, done: Sequence[PullPlan]) -> Iterator[Need]:
        seen: set[str] = set()
        for plan in done:
            folder = self._cache.folder(plan.record.repo)
            read = partial(read_file, folder, plan.record)
            for need in needs(plan.record.repo, plan.record.files, read):
                if need.repo.key not in seen:
                    seen.add(need.repo.key)
                    yield need

    def _report_done(self, plan: PullPlan, outcome: str) -> None:
        record = plan.record
        files, size = len(record.files), used_storage(record.files.values())
        self._report(RevisionDone(record.repo, record.commit_hash, outcome, files, size))

    def _note(self, level: str, text: str) -> None:
        self._report(Message(level, text))

    def _fail(self, text: str) -> None:
        self._failed.append(text)
        self._note("error", text)
