"""All repositories of the sources, in the form of the hub's listings.

A listing shows the result of the last look at all repositories. A look compares the stamp of each
repository with the stamp that its row was read with, and reads the repositories that changed. Rows
are stored in the state folder: one process looks for all processes that share the folder.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.errors import (
    DigestPendingError,
    ListingPendingError,
    NotFoundError,
    UnavailableError,
)
from mirror.core.repo import RepoType
from mirror.core.tree import used_storage
from mirror.derived import hub_json
from mirror.derived.facts import Facts
from mirror.derived.row_file import Entry, Kept, RowFile

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from mirror.core.repo import Repo
    from mirror.core.source import Snapshot, Source
    from mirror.derived.state import State

log = logging.getLogger("hubmirror")

_LISTED = (
    "modelId",
    "author", "sha", "lastModified", "createdAt", "private", "gated", "disabled", "downloads",
    "likes", "trendingScore", "tags", "pipeline_tag", "library_name", "sdk",
)  # fmt: skip
_FULL = ("cardData", "siblings")
_MAX_MORE = 64 * 1024
"""The maximum size of the fields that `full=true` adds to a stored row, in bytes."""

_COST_FACTOR = 20
_LONGEST_S = 10.0
_SAVE_EVERY_S = 5.0
_RECENT_NS = 2_000_000_000
_LOCK = "listing"


@dataclass(frozen=True, slots=True)
class Look:
    """The result of a look at all repositories. `problems` has one line for each repository with
    files that cannot be served. `at` is its time on the monotonic clock. It is
    valid for `hold_s` seconds."""

    at: float = -math.inf
    hold_s: float = 0.0
    rows: Mapping[str, Kept] = field(default_factory=dict)
    by_type: Mapping[RepoType, list[Entry]] = field(default_factory=dict)
    visible: int = 0
    waiting: int = 0
    problems: Sequence[str] = ()

    @classmethod
    def of(cls, rows: Mapping[str, Kept], age: float, hold_s: float) -> Look:
        entries = [one.entry for one in rows.values() if one.entry.row or one.entry.waiting]
        by_type: dict[RepoType, list[Entry]] = {repo_type: [] for repo_type in RepoType}
        for entry in entries:
            by_type[entry.repo.repo_type].append(entry)
        visible = sum(entry.visible for entry in entries)
        waiting = sum(entry.waiting for entry in entries)
        problems = [f"{entry.repo}: {entry.problem}" for entry in entries if entry.problem]
        return cls(time.monotonic() - age, hold_s, rows, by_type, visible, waiting, problems)

    @property
    def age(self) -> float:
        """In seconds; infinite before the first look."""
        return time.monotonic() - self.at


class Catalog:
    """The entries of a source. They are compared with the source when they are older than `ttl_s`
    seconds, or than twenty times the duration of a look, but at most ten seconds."""

    def __init__(self, source: Source, state: State, *, ttl_s: float = 1.0) -> None:
        self._source = source
        self._state = state
        self._ttl_s = ttl_s
        self._file = RowFile(state, _labels(source))
        self._file_stamp = (0, 0, 0)
        self._file_rows: Mapping[str, Kept] | None = None
        self._cost = 0.0
        self._look = Look()
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._closed = threading.Event()

    def entries(self, repo_type: RepoType) -> list[Entry]:
        """Every repository of a type once, sorted by id.

        If the last look is too old, the first caller looks. Raises ListingPendingError for the
        others, so that they use no thread meanwhile.
        """
        look = self._look
        if look.age >= look.hold_s:
            if look.age < 2 * look.hold_s:
                self.refresh()
            else:
                self._look_first()
        return self._look.by_type.get(repo_type, [])

    def _look_first(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise ListingPendingError
        try:
            if self._look.age >= self._look.hold_s:
                self._renew()
        finally:
            self._lock.release()

    def problems(self) -> Sequence[str]:
        """One line for each repository with files that cannot be served. Blocks until all
        repositories were looked at. Raises UnavailableError."""
        with self._lock:
            self._renew()
        return self._look.problems

    def last_look(self) -> Look:
        """The result of the last look. Does not block: an old look is renewed in the background."""
        look = self._look
        if look.age >= max(look.hold_s, self._ttl_s):
            self.refresh()
        return look

    def refresh(self) -> None:
        """Look in the background, unless a look is already running."""
        if not self._closed.is_set() and self._refreshing.acquire(blocking=False):
            threading.Thread(target=self._refresh, name="listing", daemon=True).start()

    def close(self) -> None:
        """Stop a running look."""
        self._closed.set()

    def _refresh(self) -> None:
        try:
            with self._lock:
                if self._look.age >= self._look.hold_s:
                    self._renew()
        except UnavailableError:
            return  # a source is unavailable, and /readyz reports it
        except Exception:
            if not self._closed.is_set():
                log.exception("The repositories could not be listed.")
        finally:
            self._refreshing.release()

    def _renew(self) -> None:
        """Use the result of another process if it is new; else look."""
        if self._take_over():
            return
        with self._state.lock(_LOCK, self._closed):
            if not self._take_over():
                self._look_now()

    def _hold_s(self) -> float:
        if not self._ttl_s:
            return 0.0
        return max(self._ttl_s, min(_LONGEST_S, _COST_FACTOR * self._cost))

    def _take_over(self) -> bool:
        """Use the rows in the state folder. Returns False if they are too old or missing."""
        age, hold_s = self._file.age(), self._hold_s()
        if age >= hold_s:
            return False
        rows = self._read_file()
        if rows is None:
            return False
        self._look = Look.of(rows, max(age, 0.0), hold_s)
        return True

    def _read_file(self) -> Mapping[str, Kept] | None:
        """The rows in the state folder. They are parsed again only if the file has changed."""
        stamp = self._file.stamp()
        if stamp != self._file_stamp:
            self._file_stamp, self._file_rows = stamp, self._file.read()
        return self._file_rows

    def _look_now(self) -> None:
        before = self._read_file()
        before = self._look.rows if before is None else before
        started = saved = time.monotonic()
        rows: dict[str, Kept] = {}
        changed = self._file_rows is None
        for repo in self._source.repos():
            if self._closed.is_set():
                return
            key = repo.key
            kept = before.get(key)
            rows[key] = found = self._kept(repo, kept)
            changed = changed or found != kept
            if time.monotonic() - saved > _SAVE_EVERY_S and changed:
                self._file.write({**before, **rows}.values(), is_whole=False)
                saved = time.monotonic()
        self._cost = time.monotonic() - started
        if changed or len(rows) != len(before):
            self._file.write(rows.values(), is_whole=True)
            self._file_stamp, self._file_rows = self._file.stamp(), rows
        self._file.mark_compared()
        self._look = Look.of(rows, 0.0, self._hold_s())

    def _kept(self, repo: Repo, kept: Kept | None) -> Kept:
        try:
            stamp = self._source.stamp(repo)
            digest = _digest((str(repo), stamp))
            if kept is not None and kept.stamp == digest and not _is_unsettled(kept.entry):
                return kept
            entry = self._read(repo)
            return Kept(digest if _is_settled(stamp, time.time_ns()) else "", entry)
        except NotFoundError:
            return Kept("", Entry(repo, b"", 0, 0))
        except DigestPendingError:
            return Kept("", Entry(repo, b"", 0, 1))
        except UnavailableError as exc:
            return Kept("", Entry(repo, b"", 0, 1, problem=str(exc)))
        except Exception:
            # An error in the files of one repository must not remove other repositories from the
            # listing.
            if not self._closed.is_set():
                log.exception("%s cannot be listed.", repo)
            return Kept("", Entry(repo, b"", 0, 1))

    def _read(self, repo: Repo) -> Entry:
        snapshot = self._source.snapshot(repo, "HEAD")
        facts = Facts(snapshot, self._state)
        row = orjson.dumps(hub_json.info(facts, {}, expand=_LISTED))
        commits = list(self._source.commits(repo))
        waiting = sum(
            commit != snapshot.commit_hash and not self._is_visible(repo, commit)
            for commit in commits
        )
        # The bytes object of orjson keeps its whole write buffer: 8 KB for each row.
        body = bytes(memoryview(row))
        return Entry(
            snapshot.repo,
            body,
            len(commits) - waiting,
            waiting,
            _more(facts, snapshot),
            used_storage(stored.file for stored in snapshot.files.values()),
            facts.parameters,
            facts.quantisation,
            snapshot.status,
            snapshot.pulled_at.isoformat() if snapshot.pulled_at else "",
            snapshot.problem_text,
        )

    def _is_visible(self, repo: Repo, commit_hash: str) -> bool:
        try:
            self._source.snapshot(repo, commit_hash)
        except (NotFoundError, UnavailableError):
            return False
        return True


def _is_unsettled(entry: Entry) -> bool:
    """Whether a repository is read again although its stamp is the same."""
    return bool(entry.waiting or entry.problem)


def full_row(entry: Entry) -> dict[str, Any] | None:
    """The row with the fields of `full=true`; None if these are not stored or are damaged."""
    try:
        body = zlib.decompressobj().decompress(base64.b64decode(entry.more), _MAX_MORE + 1)
        more = orjson.loads(body)
    except (ValueError, zlib.error):
        return None
    if len(body) > _MAX_MORE or not isinstance(more, dict) or more.get("id") != entry.repo.repo_id:
        return None
    row: dict[str, Any] = orjson.loads(entry.row)
    return row | more


def _more(facts: Facts, snapshot: Snapshot) -> str:
    """The fields that `full=true` adds to a row, compressed; empty if they are too long."""
    files = {path: stored.file for path, stored in snapshot.files.items()}
    body = orjson.dumps(hub_json.info(facts, files, _FULL))
    return base64.b64encode(zlib.compress(body)).decode() if len(body) <= _MAX_MORE else ""


def _labels(source: Source) -> list[str]:
    return [one.label for one in getattr(source, "sources", [source])]


def _digest(stamp: Hashable) -> str:
    """A short digest of the stamp, the same in each process."""
    return hashlib.blake2b(repr(stamp).encode(errors="replace"), digest_size=16).hexdigest()


def _is_settled(stamp: Hashable, now_ns: int) -> bool:
    """Whether all times in a stamp are so old that a later change has another time."""
    if isinstance(stamp, tuple):
        return all(_is_settled(one, now_ns) for one in stamp)
    return not isinstance(stamp, int) or abs(now_ns - stamp) > _RECENT_NS
