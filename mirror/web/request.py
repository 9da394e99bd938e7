"""One request, as the handlers receive it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.core.errors import RequestError, RevisionNotFoundError
from mirror.core.repo import Repo, is_repo_id
from mirror.derived.facts import Facts
from mirror.web.file_response import FileRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.datastructures import Headers, QueryParams
    from starlette.types import Scope

    from mirror.core.source import Snapshot, Source
    from mirror.core.tree import RepoFile
    from mirror.derived.catalog import Catalog
    from mirror.derived.state import State
    from mirror.derived.xet_hashes import XetHashes
    from mirror.openllm.served_files import OpenLLMFiles
    from mirror.web.observe import Metrics
    from mirror.web.pages import Pages
    from mirror.web.proxy import ProxySettings
    from mirror.web.routing import Match
    from mirror.web.tree_cache import TreeCache

_TRUE = frozenset({"true", "True", "1"})
# If a proxy decodes the `%2F` of a revision, the revision has up to this many segments.
_MAX_SEGMENTS = 4
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class AppContext:
    """The objects that all handlers share."""

    source: Source
    catalog: Catalog
    state: State
    xet_hashes: XetHashes
    openllm_files: OpenLLMFiles
    proxy: ProxySettings
    metrics: Metrics
    trees: TreeCache
    pages: Pages


@dataclass(slots=True)
class Asked:
    """What a request asks for, as far as its handler has found it: the snapshot of a revision, and
    the paths of files."""

    revision: str = ""
    snapshot: Snapshot | None = None
    paths: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class HubRequest:
    """A request and its route. The methods can block: they run in a thread."""

    context: AppContext
    match: Match
    scope: Scope
    query: QueryParams
    headers: Headers
    body: bytes = b""
    asked: Asked = field(default_factory=Asked)

    @property
    def params(self) -> tuple[str, ...]:
        """The segments of the path that the route's template does not name, decoded."""
        return self.match.params

    @property
    def path(self) -> str:
        """The path of the request, percent-encoded."""
        return str(self.scope["raw_path"].decode("ascii"))

    @property
    def base_url(self) -> str:
        """The address by which the client reaches this server, without a slash at its end. Raises
        RequestError."""
        return self.context.proxy.base_url(self.scope, self.headers)

    @property
    def repo(self) -> Repo:
        """The repository. Raises RequestError for an invalid repo id."""
        repo_id = self.match.repo_id
        if not is_repo_id(repo_id):
            raise RequestError(f"{repo_id[:200]!r} is not a repository id.")
        return Repo(self.match.repo_type, repo_id)

    @property
    def file_request(self) -> FileRequest:
        """The options of a request for a file."""
        headers, proxy = self.headers, self.context.proxy
        return FileRequest(
            headers.get("range"),
            headers.get("if-range"),
            self.scope["method"] == "HEAD",
            proxy.accel == "nginx" and proxy.trusts(self.scope),
        )

    def flag(self, name: str) -> bool:
        """A boolean of the query: `True` in requests' time, `true` in httpx's."""
        return self.query.get(name) in _TRUE

    def number(self, name: str, default: int, most: int) -> int:
        """A number in the query, at most `most`; the default if it is invalid or zero."""
        text = self.query.get(name, "")
        if not text.isascii() or not text.isdigit():
            return default
        return min(int(text[:_MAX_DIGITS]), most) or default

    def several(self, name: str) -> list[str]:
        """A repeated parameter, in the forms `a=1&a=2`, `a[]=1&a[]=2` and `a=1,2`."""
        values = self.query.getlist(name) + self.query.getlist(f"{name}[]")
        return [item for value in values for item in value.split(",") if item]

    def snapshot(self, revision: str = "HEAD") -> Snapshot:
        self.asked.snapshot = self.context.source.snapshot(self.repo, revision)
        self.asked.revision = revision
        return self.asked.snapshot

    def revision_and_path(self) -> tuple[Snapshot, str]:
        """The snapshot of the revision in the path, and the file path after the revision."""
        segments = self.params
        if not segments:
            raise RequestError("The revision is missing.")
        try:
            return self.snapshot(segments[0]), "/".join(segments[1:])
        except RevisionNotFoundError as exc:
            return self._longer_revision(segments, exc)

    def files(self, snapshot: Snapshot) -> dict[str, RepoFile]:
        """The entries of a snapshot as clients see them."""
        entry = self.context.xet_hashes.entry
        return {path: entry(stored) for path, stored in snapshot.files.items()}

    def facts(self, snapshot: Snapshot) -> Facts:
        return Facts(snapshot, self.context.state)

    def _longer_revision(
        self, segments: Sequence[str], first: RevisionNotFoundError
    ) -> tuple[Snapshot, str]:
        for end in range(2, min(_MAX_SEGMENTS, len(segments)) + 1):
            try:
                return self.snapshot("/".join(segments[:end])), "/".join(segments[end:])
            except RevisionNotFoundError:
                continue
        raise first
