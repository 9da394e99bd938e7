"""Finds the route for the raw path of a request.

A template is a path whose parts in braces stand for segments:

- `{type}`    the plural of a repository type: `models`, `datasets`, …
- `{prefix}`  the same, for the types whose file URLs carry it: `datasets`, `spaces`, …
- `{repo}`    a repo_id of one or two segments
- `{commit}`  a commit hash of 40 digits
- `{a|b}`     one of these words
- `{name}`    any other name: one segment
- `{name+}`, `{name*}` at the end: one or more segments, or none as well

A literal segment outranks a `{…}`, and a repo_id of one segment outranks one of two. Paths are
split before they are decoded, and each segment is decoded once: a revision arrives as
`refs%2Fpr%2F1`, a file as `dir%20with%20space/a%23b`, and old clients send `data%2Ftrain.parquet`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from mirror.core.errors import RequestError
from mirror.core.repo import COMMIT_HASH, PLURALS, RepoType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.responses import Response

    from mirror.web.request import HubRequest

_MAX_PATH = 8192
_PREFIXES = {name: repo_type for name, repo_type in PLURALS.items() if repo_type.url_prefix}

Handler = Callable[["HubRequest"], "Response"]


class Action(StrEnum):
    """The kind of operation of a route."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Access(Enum):
    """The credential that a request needs if the mirror has a token."""

    OPEN = "nothing"
    TOKEN = "the mirror's token"  # noqa: S105
    CAS_TOKEN = "the access token that xet-read-token gave for the commit"  # noqa: S105
    SIGNATURE = "a signature in the query, for this path"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table of routes.

    `handler` runs in a thread, unless `is_inline`. A POST is accepted where `max_body` (in bytes)
    is not 0; its body is read whole before the handler is called. `vary` names the request headers
    that the answer depends on, beside those of the cache's key; an answer with any is not kept.
    `pending_timeout_s` is for how long a request waits for an answer that another thread computes.
    """

    name: str
    templates: tuple[str, ...]
    handler: Handler
    action: Action = Action.READ
    access: Access = Access.TOKEN
    vary: tuple[str, ...] = ()
    is_cacheable: bool = True
    is_inline: bool = False
    max_body: int = 0
    pending_timeout_s: float = 5.0

    @property
    def is_shared(self) -> bool:
        """Whether its answer may be kept, and given to all clients who ask the same meanwhile."""
        return self.is_cacheable and not self.vary and self.action is Action.READ


@dataclass(frozen=True, slots=True)
class Match:
    """A route with what the path says: the repository, and the other segments in their order,
    decoded."""

    route: Route
    repo_type: RepoType = RepoType.MODEL
    repo_id: str = ""
    params: tuple[str, ...] = ()


@dataclass(slots=True)
class _Node:
    """A place in the tree of templates."""

    literals: dict[str, _Node] = field(default_factory=dict)
    params: dict[str, _Node] = field(default_factory=dict)
    route: Route | None = None
    rest: tuple[Route, int] | None = None
    """The route whose template ends in `+` or `*` here, and how many segments it needs."""


class Router:
    """Finds the route of a path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._root = _Node()
        for route in self.routes:
            for template in route.templates:
                self._add(route, template)

    def match(self, raw_path: bytes) -> Match | None:
        """None where no route has the path. Raises RequestError for a path that no client sends:
        too long, not UTF-8, with a parent folder or a NUL byte."""
        if len(raw_path) > _MAX_PATH:
            raise RequestError(f"The path is longer than {_MAX_PATH} bytes.")
        segments = [_decode(segment) for segment in raw_path.split(b"/") if segment]
        return _find(self._root, segments)

    def _add(self, route: Route, template: str) -> None:
        node = self._root
        for part in template.strip("/").split("/"):
            if part.startswith("{") and part[-2] in "+*":
                node.rest = (route, 1 if part[-2] == "+" else 0)
                return
            if part.startswith("{"):
                node = node.params.setdefault(_kind(part[1:-1]), _Node())
            elif part:
                node = node.literals.setdefault(part, _Node())
        node.route = route


def _kind(name: str) -> str:
    return name if name in ("type", "prefix", "repo", "commit") or "|" in name else ""


def _decode(segment: bytes) -> str:
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as exc:
        raise RequestError("The path is not UTF-8.") from exc
    if "\0" in text or ".." in text.split("/"):
        raise RequestError("The path holds a NUL byte or a parent folder.")
    return text


def _find(node: _Node, segments: Sequence[str]) -> Match | None:
    """The match of all segments below a node; templates have few branches, and none repeats."""
    if not segments:
        route = node.route or (node.rest[0] if node.rest and not node.rest[1] else None)
        return Match(route) if route else None
    first, rest = segments[0], segments[1:]
    literal = node.literals.get(first)
    if literal is not None and (found := _find(literal, rest)):
        return found
    for kind in sorted(node.params, key=_rank):
        child = node.params[kind]
        if found := _find_param(kind, child, segments):
            return found
    if node.rest is not None:
        return Match(node.rest[0], params=tuple(segments))
    return None


def _rank(kind: str) -> int:
    """The order of the kinds of segments: the most specific kind is tried first."""
    return {"": 2, "repo": 1}.get(kind, 0)


def _find_param(kind: str, child: _Node, segments: Sequence[str]) -> Match | None:
    first = segments[0]
    if kind == "repo":
        return _find_repo(child, segments)
    if kind in ("type", "prefix"):
        repo_type = (PLURALS if kind == "type" else _PREFIXES).get(first)
        found = _find(child, segments[1:]) if repo_type else None
        return replace(found, repo_type=repo_type) if found and repo_type else None
    if (kind == "commit" and not COMMIT_HASH.fullmatch(first)) or (
        "|" in kind and first not in kind.split("|")
    ):
        return None
    found = _find(child, segments[1:])
    return replace(found, params=(first, *found.params)) if found else None


def _find_repo(child: _Node, segments: Sequence[str]) -> Match | None:
    for end in (1, 2):
        if len(segments) >= end and (found := _find(child, segments[end:])):
            return replace(found, repo_id="/".join(segments[:end]))
    return None
