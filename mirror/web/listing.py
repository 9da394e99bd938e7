"""`/api/models`, `/api/datasets`, `/api/spaces`: search, filters, order and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from mirror.core.errors import NotFoundError, UnavailableError
from mirror.core.source import unseen_text
from mirror.derived import hub_json
from mirror.web.paging import page_link

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.derived.catalog import Entry
    from mirror.web.request import Call

_PAGE = 1000
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


def listing(call: Call) -> Response:
    """The repositories of one type (`list_models`). An empty mirror that only waits says so."""
    entries = [
        one for one in call.hub.catalog.entries() if one.repo.repo_type is call.target.repo_type
    ]
    visible = [one for one in entries if one.row]
    if not visible and (why := _why_empty(call, entries)):
        raise UnavailableError(why)
    chosen = _choose(call, visible)
    start = call.number("cursor", 0, len(chosen))
    end = start + call.number("limit", _PAGE, _PAGE)
    rows = [_row(call, one) for one in chosen[start:end]]
    headers = page_link(call, end) if end < len(chosen) else None
    body = b"[" + b",".join(row for row in rows if row) + b"]"
    return Response(body, 200, headers, "application/json")


def _why_empty(call: Call, entries: list[Entry]) -> str | None:
    if not entries:
        return None
    waiting = f"{len(entries)} repositories are in this mirror, and none is complete yet."
    unseen = call.hub.source.unseen()
    return f"{waiting} {unseen_text(unseen)}" if unseen else waiting


def _choose(call: Call, entries: list[Entry]) -> list[Entry]:
    search = call.query.get("search", "").lower()
    author = call.query.get("author", "").lower()
    chosen = [
        one
        for one in entries
        if search in one.repo.repo_id.lower()
        and (not author or (one.repo.author or "").lower() == author)
    ]
    tags = [*call.several("filter"), *call.several("tags"), *call.several("library")]
    task = call.query.get("pipeline_tag")
    sort = _SORTS.get(call.query.get("sort", ""))
    if not (tags or task or sort):
        return chosen
    rows = [(orjson.loads(one.row), one) for one in chosen]
    rows = [(row, one) for row, one in rows if _matches(row, tags, task)]
    if sort:
        rows.sort(key=_sort_key(sort), reverse=call.query.get("direction", "-1") == "-1")
    return [one for _, one in rows]


def _matches(row: dict[str, Any], tags: list[str], task: str | None) -> bool:
    has = {str(tag).lower() for tag in row.get("tags") or []}
    if task and row.get("pipeline_tag") != task:
        return False
    return all(tag.lower() in has for tag in tags)


def _sort_key(name: str) -> Callable[[tuple[dict[str, Any], Entry]], Any]:
    empty: Any = "" if name in ("lastModified", "createdAt") else 0
    return lambda pair: pair[0].get(name) or empty


def _row(call: Call, entry: Entry) -> bytes:
    """The ready row, or one made anew where the query asks for more than it holds."""
    expand = [*call.several("expand")]
    more = [name for name in ("cardData", "config") if call.flag(name)]
    if call.flag("full"):
        more += ["cardData", "siblings"]
    if not expand and not more:
        return entry.row
    try:
        snapshot = call.hub.source.snapshot(entry.repo, "HEAD")
    except (NotFoundError, UnavailableError):
        return b""
    extra = hub_json.info(call.facts(snapshot), call.files(snapshot), [*expand, *more])
    return orjson.dumps(extra if expand else orjson.loads(entry.row) | extra)
