"""The state of the mirror for its operator: what is complete, what is missing, what mends it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509

from mirror import __version__
from mirror.core.errors import HubmirrorError, UnavailableError
from mirror.core.repo import Repo, RepoType
from mirror.core.source import Layout
from mirror.core.units import duration
from mirror.maintenance.garbage import find_garbage
from mirror.openllm import wheels
from mirror.openllm.closure import read_closures
from mirror.openllm.readiness import first_problem
from mirror.pages.background import Background
from mirror.sources.first_found import FirstFound
from mirror.sources.inventory import inventory, running_pulls
from mirror.store.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from mirror.core.source import Source
    from mirror.derived.catalog import Catalog
    from mirror.derived.row_file import Entry
    from mirror.sources.inventory import Row
    from mirror.sources.pull_status import PullStatus

_MAX_PROBLEMS = 200
_MAX_LARGEST = 20
_BROKEN = ("waiting", "corrupt", "damaged", "partial", "failed", "stopped")
_HOLD_S = 15.0
_GARBAGE_HOLD_S = 300.0
_FIRST_WAIT_S = 3.0


@dataclass(frozen=True, slots=True)
class Problem:
    """A revision that is not whole, and the command that mends it. `command` is empty if hubmirror
    does not fill the source."""

    repo_type: RepoType
    repo: str
    commit_hash: str
    refs: Sequence[str]
    state: str
    note: str
    command: str

    @property
    def name(self) -> str:
        return str(Repo(self.repo_type, self.repo))


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source, by its kind; its path is not shown."""

    kind: str
    repositories: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of the data folder, in bytes."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model of OpenLLM on a platform. `problem` is empty if it can start."""

    tag: str
    platform: str
    problem: str
    repos: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RunningPull:
    """A pull that runs in any process. Sizes are in bytes, and `rate` in bytes per second."""

    name: str
    revision: str
    received: int
    size: int
    rate: int
    left_s: int | None

    @property
    def left(self) -> str:
        return duration(self.left_s or 0)


@dataclass(frozen=True, slots=True)
class Slow:
    """What is found in the background."""

    checked_at: datetime
    problems: Sequence[Problem] = ()
    more_problems: int = 0
    sources: Sequence[SourceState] = ()
    models: Sequence[Model] = ()


@dataclass(frozen=True, slots=True)
class GarbageSize:
    """What `gc` would remove: the number of items, and their size in bytes."""

    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Status:
    """The whole state. `slow` and `garbage` are None until they are known for the first time."""

    version: str
    repositories: int
    visible: int
    waiting: int
    states: dict[str, int]
    size: int
    largest: Sequence[tuple[str, int]]
    disk: Disk | None
    last_pull: datetime | None
    certificate_ends: datetime | None
    slow: Slow | None
    garbage: GarbageSize | None
    running: Sequence[RunningPull]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing or corrupt, as far as it is known."""
        return not self.waiting and not (self.slow and self.slow.problems)


class StatusBoard:
    """Gives the status. What takes long is looked up in the background."""

    def __init__(
        self, source: Source, catalog: Catalog, data: Path, certificate: Path | None
    ) -> None:
        self._sources = FirstFound(getattr(source, "sources", [source]))
        self._source = source
        self._catalog = catalog
        self._data = data
        self._certificate = certificate
        self._slow = Background("status", _HOLD_S, self._find)
        self._garbage = Background("garbage", _GARBAGE_HOLD_S, self._find_garbage)

    def status(self) -> Status:
        """The status now. The first call waits a moment for what takes long."""
        entries = [entry for one in RepoType for entry in self._catalog.entries(one)]
        garbage, slow = self._garbage.get(), self._slow.get(_FIRST_WAIT_S)
        look = self._catalog.last_look()
        states: dict[str, int] = {}
        for entry in entries:
            states[entry.state] = states.get(entry.state, 0) + 1
        return Status(
            __version__,
            len(entries),
            look.visible,
            look.waiting,
            states,
            sum(entry.size for entry in entries),
            _largest(entries),
            self.disk(),
            _last_pull(entries),
            self.certificate_ends(),
            slow,
            garbage,
            self._running(),
        )

    def models_of(self, repo: Repo) -> list[str]:
        """The models of OpenLLM that need the repository, as the last look found them."""
        slow = self._slow.get()
        models = slow.models if slow else ()
        return sorted({model.tag for model in models if repo.key in model.repos})

    def _find(self) -> Slow:
        suspects = {
            entry.repo.key
            for one in RepoType
            for entry in self._catalog.entries(one)
            if entry.waiting or entry.state not in ("complete", "foreign")
        }
        suspects |= {pull.repo.key for pull in self._pulls() if not pull.is_running}
        problems = list(self._problems(suspects)) if suspects else []
        return Slow(
            datetime.now(UTC),
            problems[:_MAX_PROBLEMS],
            max(0, len(problems) - _MAX_PROBLEMS),
            [_source_state(one) for one in self._sources.sources],
            list(self._models()),
        )

    def _find_garbage(self) -> GarbageSize:
        found = [
            item
            for one in self._sources.sources
            if one.layout is Layout.MANAGED_CACHE and one.root is not None and one.root.is_dir()
            for item in find_garbage(Cache(one.root))
        ]
        return GarbageSize(len(found), sum(item.size for item in found))

    def _problems(self, suspects: Collection[str]) -> Iterator[Problem]:
        for source in self._sources.sources:
            is_managed = source.layout is Layout.MANAGED_CACHE
            for row in self._broken(source, suspects):
                name = str(row.repo) + (f"@{row.commit_hash}" if row.commit_hash else "")
                yield Problem(
                    row.repo.repo_type, row.repo.repo_id, row.commit_hash, row.refs, row.status,
                    row.note, f"hubmirror pull {name}" if is_managed else "",
                )  # fmt: skip

    def _broken(self, source: Source, suspects: Collection[str]) -> list[Row]:
        try:
            rows = inventory(self._sources, source, suspects, str)
        except UnavailableError:
            return []  # the state of the source says it
        return [row for row in rows if row.status in _BROKEN]

    def _models(self) -> Iterator[Model]:
        for closure in read_closures(self._data):
            problem = first_problem(self._source, self._data, closure, missing=wheels.absent)
            repos = [model.repo.key for model in closure.models]
            yield Model(closure.tag, str(closure.platform), problem, repos)

    def _pulls(self) -> list[PullStatus]:
        return [pull for source in self._sources.sources for pull in running_pulls(source)]

    def _running(self) -> list[RunningPull]:
        return [
            RunningPull(
                str(pull.repo), pull.revision, pull.received, pull.size, pull.rate,
                round((pull.size - pull.received) / pull.rate) if pull.rate else None,
            )
            for pull in self._pulls()
            if pull.is_running
        ]  # fmt: skip

    def problems(self) -> dict[str, int]:
        """The number of revisions that are not whole, by their states, at the last look. Does not
        block."""
        slow = self._slow.get()
        found = dict.fromkeys(_BROKEN, 0)
        for problem in slow.problems if slow else ():
            found[problem.state] += 1
        return found

    def disk(self) -> Disk | None:
        """The disk of the data folder; None if it cannot be asked."""
        try:
            usage = shutil.disk_usage(self._data)
        except OSError:
            return None
        return Disk(usage.total, usage.free)

    def certificate_ends(self) -> datetime | None:
        """When the certificate of https ends; None if there is none."""
        if self._certificate is None:
            return None
        try:
            return x509.load_pem_x509_certificate(
                self._certificate.read_bytes()
            ).not_valid_after_utc
        except (OSError, ValueError):
            return None


def _source_state(source: Source) -> SourceState:
    kind = source.label.partition(":")[0]
    try:
        return SourceState(kind, sum(1 for _ in source.repos()))
    except HubmirrorError as exc:
        return SourceState(kind, 0, str(exc))


def _largest(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    ordered = sorted(entries, key=lambda entry: -entry.size)[:_MAX_LARGEST]
    return [(str(entry.repo), entry.size) for entry in ordered if entry.size]


def _last_pull(entries: Sequence[Entry]) -> datetime | None:
    last = max((entry.pulled_at for entry in entries), default="")
    try:
        return datetime.fromisoformat(last) if last else None
    except ValueError:
        return None
