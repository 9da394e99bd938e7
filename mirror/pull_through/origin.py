"""The filler's knowledge of upstream: which commit a revision is, its tree, its refs.

Each question goes upstream once for all processes that ask it. The answers about commits are
written down (`KnownRevisions`), so that they outlive the filler and an outage of upstream.
"""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mirror.core.errors import UpstreamError, UpstreamFailure
from mirror.core.record import Record
from mirror.core.repo import COMMIT_HASH, find_commit
from mirror.pull_through.kept import Kept
from mirror.pull_through.metrics import RESOLVED
from mirror.pull_through.wire import Commit, Failure
from mirror.sync.completeness import read_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.core.repo import Repo
    from mirror.pull_through.fetcher import Fetcher
    from mirror.pull_through.known_revisions import KnownRevisions
    from mirror.pull_through.wire import Question
    from mirror.store.cache import Cache
    from mirror.sync.upstream import Head, Upstream

log = logging.getLogger("hubmirror")

_MAX_REQUESTS = 8
_NOT_FOUND_S = 60.0
"""How long "not found" and "refused" are kept, for the token that was used."""

_COMMIT_S = 3600.0
_STALE_S = 5.0
"""How long upstream is not asked again after an outage, for a revision that is known."""

_PATIENCE_S = 3.0
"""How long a request waits for upstream if the last known commit can answer instead."""

_TIMEOUT_S = 55.0
_MAX_RECORDS = 64
_OUTAGES = frozenset({UpstreamFailure.BUSY, UpstreamFailure.TIMEOUT, UpstreamFailure.FAILED})
_KEPT_FAILURES = frozenset({
    UpstreamFailure.NO_REPOSITORY, UpstreamFailure.NO_REVISION, UpstreamFailure.REFUSED,
})  # fmt: skip


class Origin:
    """Upstream, as the filler asks it. Methods block, and are thread-safe."""

    def __init__(
        self,
        cache: Cache,
        known: KnownRevisions,
        fetcher: Fetcher,
        upstream_of: Callable[[Repo, str | None], Upstream],
        *,
        fresh_s: float,
        is_offline: Callable[[], bool],
    ) -> None:
        """`upstream_of` returns the hub for a repository and a client's token. A branch is resolved
        upstream at most once in `fresh_s` seconds."""
        self._cache = cache
        self._known = known
        self._fetcher = fetcher
        self._upstream_of = upstream_of
        self._fresh_s = fresh_s
        self._is_offline = is_offline
        self._commits: Kept[Commit | Failure] = Kept("upstream-commits", _MAX_REQUESTS)
        self._records: dict[tuple[str, str], Record] = {}
        self._others: Kept[dict[str, Any]] = Kept("upstream-others", _MAX_REQUESTS)

    def resolve(self, question: Question) -> Commit | Failure:
        """The commit of a revision, whose tree is written down."""
        repo, revision = question.repo, question.revision
        key = (repo.key, revision, _fingerprint(question.token))
        if kept := self._commits.find(key):  # all processes forget it at the same time
            return replace(kept, valid_s=self._commits.remaining_s(key))
        held = self._held(repo, revision)
        if self._is_offline():
            return self._without_upstream(question, held, "This mirror is switched to offline.")
        future = self._commits.start(key, lambda: self._resolve_now(question, held))
        try:
            return future.result(_PATIENCE_S if held else _TIMEOUT_S)[0]
        except FutureTimeoutError:
            return self._without_upstream(question, held, "Upstream is slow.")

    def refs(self, question: Question) -> dict[str, Any]:
        """The branches and tags of a repository, as `{"refs": {full name: commit hash}}`, or a
        Failure."""
        repo = question.repo
        key = ("refs", repo.key, _fingerprint(question.token))
        if (kept := self._others.find(key)) is not None:
            return kept
        if self._is_offline():
            return Failure(UpstreamFailure.TIMEOUT, "This mirror is switched to offline.").render()
        return self._ask_other(
            key, question, lambda upstream: {"refs": upstream.refs(repo)}, self._fresh_s
        )

    def check_access(self, question: Question) -> dict[str, Any]:
        """An empty answer if upstream lets the token read the files of the repository, else a
        Failure."""
        repo = question.repo
        key = ("access", repo.key, _fingerprint(question.token))
        if (kept := self._others.find(key)) is not None:
            return kept
        if self._is_offline():
            return Failure(
                UpstreamFailure.TIMEOUT,
                f"{repo} is private or gated. This mirror is switched to offline, so that it "
                "cannot ask upstream who may read it.",
            ).render()

        def check(upstream: Upstream) -> dict[str, Any]:
            upstream.check_access(repo)
            return {}

        return self._ask_other(key, question, check, _NOT_FOUND_S)

    def close(self) -> None:
        self._commits.close()
        self._others.close()

    def _ask_other(
        self,
        key: tuple[str, ...],
        question: Question,
        ask: Callable[[Upstream], dict[str, Any]],
        valid_s: float,
    ) -> dict[str, Any]:
        upstream = self._upstream_of(question.repo, question.token)

        def compute() -> tuple[dict[str, Any], float]:
            try:
                self._check_pause(upstream)
                return ask(upstream), valid_s
            except UpstreamError as exc:
                keep_s = self._note(upstream, exc)
                return Failure.of(exc, keep_s).render(), keep_s

        try:
            return self._others.start(key, compute).result(_TIMEOUT_S)[0]
        except FutureTimeoutError:
            return Failure(UpstreamFailure.TIMEOUT, "Upstream did not answer in time.").render()

    def _check_pause(self, upstream: Upstream) -> None:
        """Raises UpstreamError while upstream must not be asked (429)."""
        if left := self._fetcher.paused_s(upstream.endpoint):
            raise UpstreamError(
                f"{upstream.endpoint} asks its clients to wait for another {left:.0f} s.",
                UpstreamFailure.BUSY,
                left,
            )

    def _resolve_now(self, question: Question, held: str) -> tuple[Commit | Failure, float]:
        repo, revision = question.repo, question.revision
        upstream = self._upstream_of(repo, question.token)
        try:
            self._check_pause(upstream)
            head = upstream.head(repo, revision)
            self._write_down(upstream, head)
            RESOLVED.labels("resolved").inc()
            if COMMIT_HASH.fullmatch(revision):
                return Commit(head.commit_hash, valid_s=_COMMIT_S), _COMMIT_S
            self._known.resolve(repo, revision, head.commit_hash)
            return Commit(head.commit_hash, valid_s=self._fresh_s), self._fresh_s
        except OSError as exc:
            cause = exc.strerror or type(exc).__name__
            message = f"{repo} cannot be kept in this mirror: {cause}."
            return Failure(UpstreamFailure.FAILED, message), 0.0
        except UpstreamError as exc:
            RESOLVED.labels(exc.failure.value).inc()
            keep_s = self._note(upstream, exc)
            if held and (exc.failure in _OUTAGES or question.token is None):
                log.warning("%s The last known commit answers: %s.", exc, held[:12])
                return self._without_upstream(question, held, str(exc)), max(keep_s, _STALE_S)
            return Failure.of(exc, keep_s), keep_s

    def _note(self, upstream: Upstream, exc: UpstreamError) -> float:
        """For how many seconds a failure is kept; a 429 stops all requests for a time."""
        if exc.failure is UpstreamFailure.BUSY and not self._fetcher.paused_s(upstream.endpoint):
            self._fetcher.pause(upstream.endpoint, exc.retry_after or 1.0)
        return _NOT_FOUND_S if exc.failure in _KEPT_FAILURES else 0.0

    def _write_down(self, upstream: Upstream, head: Head) -> None:
        """Write down the tree of a commit, unless it is known."""
        if self.record(head.repo, head.commit_hash) is not None:
            return
        files = upstream.tree(head)
        self._known.put(
            Record(
                repo=head.repo,
                commit_hash=head.commit_hash,
                files={},
                left_out=files,
                pulled_at=datetime.now(UTC),
                upstream=upstream.endpoint,
                info=head.info,
            )
        )

    def record(self, repo: Repo, commit_hash: str) -> Record | None:
        """What upstream said about a commit; None if it was not asked."""
        key = (repo.key, commit_hash)
        found = self._records.get(key)
        if found is None:
            found = self._known.record(repo, commit_hash) or read_record(
                self._cache.folder(repo), commit_hash
            )
            if found is not None:
                self._records[key] = found
                while len(self._records) > _MAX_RECORDS:
                    self._records.pop(next(iter(self._records)), None)
        return found

    def _held(self, repo: Repo, revision: str) -> str:
        """The commit of a revision that answers without upstream; empty if there is none. A
        published ref comes first: its files are here."""
        if COMMIT_HASH.fullmatch(revision):
            return revision if self.record(repo, revision) else ""
        folder = self._cache.folder(repo)
        published = find_commit(revision, folder.refs(), ())
        if published and read_record(folder, published):
            return published
        resolved = self._known.resolved(repo).get(revision)
        if resolved and self.record(repo, resolved.commit_hash):
            return resolved.commit_hash
        return ""

    def _without_upstream(self, question: Question, held: str, reason: str) -> Commit | Failure:
        if not held:
            return Failure(
                UpstreamFailure.TIMEOUT,
                f"{question.repo} at {question.revision} is not in this mirror. {reason}",
            )
        resolved = self._known.resolved(question.repo).get(question.revision)
        age = f" {time.time() - resolved.checked_at:.0f} s ago" if resolved else ""
        return Commit(held, f"Upstream named this commit{age}. {reason}", _STALE_S)


def _fingerprint(token: str | None) -> str:
    """A key for a token, so that no token is kept in memory for longer than its request."""
    return "" if token is None else hashlib.sha256(token.encode()).hexdigest()
