"""The filler: the one process that asks upstream, for all server processes on a data folder.

Each server starts a filler. The one that holds the lock of the data folder works; the others wait,
and one of them takes over when it ends. The kernel frees the lock of a process that dies.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from mirror.core.errors import UpstreamError, UpstreamFailure
from mirror.core.repo import COMMIT_HASH
from mirror.pull_through.eviction import evict
from mirror.pull_through.fetcher import Fetcher, Job
from mirror.pull_through.known_revisions import KnownRevisions
from mirror.pull_through.mode import is_offline
from mirror.pull_through.origin import Origin
from mirror.pull_through.publisher import Publisher
from mirror.pull_through.wire import Failure, Question
from mirror.sync.upstream import Head, Upstream
from mirror.sync.upstreams import Upstreams

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from mirror.config.specs import UpstreamSpec
    from mirror.core.repo import Repo
    from mirror.store.cache import Cache

log = logging.getLogger("hubmirror")

_EVICT_EVERY_S = 30.0

_POLL_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class FillerSettings:
    """How the filler asks upstream: the default hub, and the specs of the others. `fresh_s` is in
    seconds; with `forwards_tokens`, the default hub gets the tokens of the clients instead of the
    mirror's own. `cache_size` limits the managed cache, in bytes; 0 is no limit. The repositories
    of `declared` stay in it."""

    endpoint: str
    specs: tuple[UpstreamSpec, ...] = ()
    fresh_s: float = 60.0
    finish_always: bool = True
    cache_size: int = 0
    declared: tuple[Repo, ...] = ()
    forwards_tokens: bool = False


@dataclass(slots=True)
class Filler:
    """Everything that the filler process holds."""

    cache: Cache
    settings: FillerSettings
    upstreams: Upstreams = field(init=False)
    known: KnownRevisions = field(init=False)
    fetcher: Fetcher = field(init=False)
    publisher: Publisher = field(init=False)
    origin: Origin = field(init=False)
    _closed: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        work_dir = self.cache.work_dir
        default = Upstream(self.settings.endpoint, once=True)
        self.upstreams = Upstreams(default, self.settings.specs, once=True)
        self.known = KnownRevisions(work_dir)
        self.fetcher = Fetcher(self.cache, finish_always=self.settings.finish_always)
        self.publisher = Publisher(self.cache, self.known, lambda repo: self._upstream(repo, None))
        self.origin = Origin(
            self.cache,
            self.known,
            self.fetcher,
            self._upstream,
            fresh_s=self.settings.fresh_s,
            is_offline=lambda: is_offline(work_dir),
        )

    def publish_rest(self) -> None:
        """Publish what an earlier filler fetched and could not publish any more."""
        for folder in self.cache.folders():
            for commit_hash in self.known.commits(folder.repo):
                record = self.known.record(folder.repo, commit_hash)
                if record is not None and not self._closed.is_set():
                    self.publisher.note(Head(record.repo, commit_hash, record.info))

    def keep_size(self) -> None:
        """Remove old revisions from time to time, until `close`, if the cache has a limit."""
        while self.settings.cache_size and not self._closed.wait(_EVICT_EVERY_S):
            try:
                evict(self.cache, self.settings.cache_size, self.settings.declared)
            except OSError as exc:
                log.warning("No room could be made in the cache: %s.", exc.strerror)

    def _upstream(self, repo: Repo, token: str | None) -> Upstream:
        """The hub of a repository. The token of a client goes to the default hub only."""
        found = self.upstreams.of(repo)
        if self.settings.forwards_tokens and found is self.upstreams.default:
            return Upstream(found.endpoint, once=True, token=token or "")
        return found

    def fill(self, question: Question) -> dict[str, Any]:
        """A reader waits for a byte of a file of a commit. The answer is empty, or a Failure."""
        failure = self._request(question)
        return failure.render() if failure else {}

    def _request(self, question: Question) -> Failure | None:
        repo, commit = question.repo, question.revision
        record = self.origin.record(repo, commit) if COMMIT_HASH.fullmatch(commit) else None
        file = {**record.files, **record.left_out}.get(question.path) if record else None
        if record is None or file is None:
            return Failure(UpstreamFailure.FAILED, f"{question.path} is not a file of {repo}.")
        if is_offline(self.cache.work_dir):
            return Failure(
                UpstreamFailure.TIMEOUT,
                f"{file.path} of {repo} is not in this mirror, which is switched to offline.",
            )
        head = Head(record.repo, commit, record.info)
        job = Job(
            self._upstream(repo, question.token),
            head,
            self.cache.folder(repo),
            file,
            lambda: self.publisher.note(head),
        )
        try:
            self.fetcher.request(job, question.offset)
        except UpstreamError as exc:
            return Failure.of(exc)
        return None

    def status(self) -> dict[str, Any]:
        """What is being fetched now, for the operator. Sizes are in bytes."""
        rows = [
            {
                "repo": str(job.folder.repo),
                "commit_hash": job.head.commit_hash,
                "path": job.file.path,
                "size": job.file.size,
                "present": fill.map.present,
            }
            for job, fill in self.fetcher.running()
        ]
        return {"fills": rows, "received": self.fetcher.received}

    def close(self) -> None:
        self._closed.set()
        self.fetcher.close()
        self.origin.close()
        self.publisher.close()


def create_app(filler: Filler) -> Starlette:
    """The filler as an ASGI application; `mirror/pull_through/wire.py` describes its answers."""

    def status(_: Request) -> Response:
        return Response(orjson.dumps(filler.status()), media_type="application/json")

    answers: dict[str, Callable[[Question], dict[str, Any]]] = {
        "/resolve": lambda question: filler.origin.resolve(question).render(),
        "/refs": filler.origin.refs,
        "/access": filler.origin.check_access,
        "/fill": filler.fill,
    }
    routes = [Route(path, _endpoint(answer), methods=["POST"]) for path, answer in answers.items()]
    return Starlette(routes=[*routes, Route("/status", status)])


def _endpoint(answer: Callable[[Question], dict[str, Any]]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            question = Question.parse(orjson.loads(await request.body()))
        except (KeyError, TypeError, ValueError):
            return Response(status_code=400)
        body = await run_in_threadpool(answer, question)
        return Response(orjson.dumps(body), media_type="application/json")

    return endpoint
