"""`/api/models`, `/api/datasets`, `/api/spaces`: search, filters, order and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from mirror.core.errors import NotFoundError, UnavailableError
from mirror.core.source import unrecorded_text
from mirror.derived import hub_json
from mirror.derived.catalog import full_row
from mirror.web.listing_query import ListingQuery
from mirror.web.paging import page_link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.derived.row_file import Entry
    from mirror.web.request import HubRequest

_PAGE = 1000
_FULL = ["cardData", "siblings"]
_WEIGHTS = ("safetensors", "gguf")


def listing(request: HubRequest) -> Response:
    """The repositories of one type (`list_models`). An empty mirror that only waits says so."""
    query = ListingQuery.parse(request)
    entries = request.context.catalog.entries(request.match.repo_type)
    visible = [one for one in entries if one.row]
    if not visible and (why := _why_empty(request, entries)):
        raise UnavailableError(why)
    chosen = _choose(request, query, visible)
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


def _choose(request: HubRequest, query: ListingQuery, entries: list[Entry]) -> list[Entry]:
    chosen = [one for one in entries if query.is_named(one.repo.repo_id)]
    if query.reads_rows:
        rows = [(orjson.loads(one.row), one) for one in chosen]
        rows = [(row, one) for row, one in rows if query.matches(row)]
        if query.sort:
            rows.sort(key=lambda pair: query.sort_key(pair[0]), reverse=query.is_descending)
        chosen = [one for _, one in rows]
    if query.parameters:
        chosen = [one for one in chosen if query.has_size(_info(request, one, _WEIGHTS))]
    return chosen


def _info(request: HubRequest, entry: Entry, names: Sequence[str]) -> dict[str, Any]:
    """The properties of a repository; empty if it cannot be served any more."""
    try:
        snapshot = request.context.source.snapshot(entry.repo, "HEAD")
    except (NotFoundError, UnavailableError):
        return {}
    return hub_json.info(request.facts(snapshot), request.files(snapshot), names)


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
    extra = _info(request, entry, [*expand, *more])
    if not extra:
        return b""
    return orjson.dumps(extra if expand else orjson.loads(entry.row) | extra)
