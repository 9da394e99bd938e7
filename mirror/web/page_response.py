"""Responses with a page, and errors as pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from mirror.pages.template import render
from mirror.web.errors import error_response
from mirror.web.reader import preference_cookies, reader_of, wants_page

if TYPE_CHECKING:
    from starlette.types import Scope

    from mirror.web.proxy import ProxySettings
    from mirror.web.request import HubRequest

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with `no-referrer`, a form has the origin `null`
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "private, no-cache",
    "vary": "Accept, Accept-Language, Cookie",
}
"""A page loads nothing from another host, and runs no script but its own."""

_KINDS = (400, 401, 403, 404, 503)


def page(request: HubRequest, template: str, **values: Any) -> Response:
    """The response with a page."""
    return _page(request.scope, request.context.proxy, template, 200, **values)


def answer_error(exc: Exception, scope: Scope, proxy: ProxySettings) -> Response:
    """The response for an error: a page for a browser that navigates, else the hub's JSON."""
    answer = error_response(exc)
    if not wants_page(scope):
        return answer
    said = orjson.loads(answer.body)["error"]
    values = {"section": "", "said": said, "problem": "", "next": ""}
    status = answer.status_code
    if status == 401:
        query = scope["query_string"].decode("ascii", "replace")
        reader = reader_of(scope, proxy)
        values["next"] = reader.path + (f"?{query}" if query else "")
        values["problem"] = "ended" if reader.has_session else ""
        template = "sign_in.html"
    else:
        template = "error.html"
    kind = status if status in _KINDS else 500
    shown = _page(scope, proxy, template, status, status=status, kind=kind, **values)
    for name, value in answer.headers.items():
        if name not in ("content-type", "content-length", "www-authenticate"):
            shown.headers[name] = value
    if status == 401:
        shown.headers["www-authenticate"] = "Bearer"  # `Basic` opens a dialog of the browser
    return shown


def _page(
    scope: Scope, proxy: ProxySettings, template: str, status_code: int, /, **values: Any
) -> Response:
    reader = reader_of(scope, proxy)
    body = render(template, reader, **values)
    response = Response(body, status_code, HEADERS, "text/html")
    for cookie in preference_cookies(scope, reader):
        response.headers.append("set-cookie", cookie)
    return response
