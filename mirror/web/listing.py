"""`/api/models`, `/api/datasets`, `/api/spaces`: search, filters, order and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from mirror.core.errors import NotFoundError, UnavailableError
from mirror.core.source import unrecorded_text
from mirror.derived import hub_json
from mirror.derived.catalog import full_row
from mirror.web.paging import page_link

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.derived.row_file import Entry
    from mirror.web.request import HubRequest

_PAGE = 1000
_FULL = ["cardData", "siblings"]
_SORTS = {
    "downloads": "downloads",
    "likes": "likes",
    "lastModified": "lastModified",
    "last_modified": "lastModified",
    "createdAt": "createdAt",
    "created_at": "createdAt",
    "trendingScore": "trendingScore",
    "trending_score": "trendingScore",
}


def listing(request: HubRequest) -> Response:
    """The repositories of one type (`list_models`). An empty mirror that only waits says so."""
    entries = request.context.catalog.entries(request.match.repo_type)
    visible = [one for one in entries if one.row]
    if not visible and (why := _why_empty(request, entries)):
        raise UnavailableError(why)
    chosen = _choose(request, visible)
    start = request.number("cursor", 0, len(chosen))
    end = start + request.number("limit", _PAGE, _PAGE)
    rows = [_row(request, one) for one in chosen[start:end]]
    headers = page_link(request, end) if end < len(chosen) else None
    body = b"[" + b",".join(row for row in rows if row) + b"]"
    return Response(body, 200, headers, "application/json")


def _why_empty(request: HubRequest, entries: list[Entry]) -> str | None:
    if not entries:
        return None
    waiting = f"{len(entries)} repositories are in this mirror, and none is complete yet."
    unrecorded = request.context.source.unrecorded()
    return f"{waiting} {unrecorded_text(unrecorded)}" if unrecorded else waiting


def _choose(request: HubRequest, entries: list[Entry]) -> list[Entry]:
    search = request.query.get("search", "").lower()
    author = request.query.get("author", "").lower()
    chosen = entries
    if search or author:
        chosen = [one for one in entries if _is_named(one, search, author)]
    tags = [*request.several("filter"), *request.several("tags"), *request.several("library")]
    task = request.query.get("pipeline_tag")
    sort = _SORTS.get(request.query.get("sort", ""))
    if not (tags or task or sort):
        return chosen
    rows = [(orjson.loads(one.row), one) for one in chosen]
    rows = [(row, one) for row, one in rows if _matches(row, tags, task)]
    if sort:
        rows.sort(key=_sort_key(sort), reverse=request.query.get("direction", "-1") == "-1")
    return [one for _, one in rows]


def _is_named(entry: Entry, search: str, author: str) -> bool:
    repo_id = entry.repo.repo_id.lower()
    return search in repo_id and (not author or repo_id.rpartition("/")[0] == author)


def _matches(row: dict[str, Any], tags: list[str], task: str | None) -> bool:
    has = {str(tag).lower() for tag in row.get("tags") or []}
    if task and row.get("pipeline_tag") != task:
        return False
    return all(tag.lower() in has for tag in tags)


def _sort_key(name: str) -> Callable[[tuple[dict[str, Any], Entry]], Any]:
    empty: Any = "" if name in ("lastModified", "createdAt") else 0
    return lambda pair: pair[0].get(name) or empty


def _row(request: HubRequest, entry: Entry) -> bytes:
    """The ready row, or one made anew where the query asks for more than it holds."""
    expand = [*request.several("expand")]
    more = [name for name in ("cardData", "config") if request.flag(name)]
    if request.flag("full"):
        more += _FULL
    if not expand and not more:
        return entry.row
    if not expand and more == _FULL and (full := full_row(entry)):
        return orjson.dumps(full)
    try:
        snapshot = request.context.source.snapshot(entry.repo, "HEAD")
    except (NotFoundError, UnavailableError):
        return b""
    extra = hub_json.info(request.facts(snapshot), request.files(snapshot), [*expand, *more])
    return orjson.dumps(extra if expand else orjson.loads(entry.row) | extra)
