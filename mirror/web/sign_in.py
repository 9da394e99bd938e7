"""Sign-in for browsers, on a mirror with a token: the token for a cookie."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from starlette.responses import Response

from mirror.core.errors import ForbiddenError, UnauthorizedError
from mirror.web.access import SESSION_S
from mirror.web.page_response import page
from mirror.web.reader import SESSION_COOKIE, local_path, reader_of

if TYPE_CHECKING:
    from mirror.web.request import HubRequest

MAX_FORM = 8192


def sign_in(request: HubRequest) -> Response:
    """The form, and the cookie for the right token."""
    signer = request.context.proxy.signer
    form = dict(parse_qsl(request.body.decode("utf-8", "replace"), max_num_fields=10))
    target = local_path(form.get("next", "/"))
    if not signer.closed:
        return _go_to(request, "/")
    if request.scope["method"] != "POST":
        return _form(request, 200, "", "/")
    _need_own_page(request)
    if not request.context.pages.tries.allow(_client(request)):
        return _form(request, 429, "often", target)
    try:
        signer.check_token(form.get("token", ""))
    except UnauthorizedError:
        return _form(request, 401, "wrong", target)
    response = _go_to(request, target)
    response.headers["set-cookie"] = _cookie(request, signer.session(), SESSION_S)
    return response


def sign_out(request: HubRequest) -> Response:
    """Remove the cookie."""
    if request.scope["method"] == "POST":
        _need_own_page(request)
    response = _go_to(request, "/")
    if request.scope["method"] == "POST":
        response.headers["set-cookie"] = _cookie(request, "", 0)
    return response


def _form(request: HubRequest, status: int, problem: str, target: str) -> Response:
    response = page(request, "sign_in.html", section="", problem=problem, next=target)
    response.status_code = status
    return response


def _go_to(request: HubRequest, path: str) -> Response:
    reader = reader_of(request.scope, request.context.proxy)
    headers = {"location": f"{reader.root}{path}", "cache-control": "no-store"}
    return Response(status_code=303, headers=headers)


def _cookie(request: HubRequest, value: str, seconds: int) -> str:
    reader = reader_of(request.scope, request.context.proxy)
    secure = "; Secure" if reader.base_url.startswith("https:") else ""
    return (
        f"{SESSION_COOKIE}={value}; Path={reader.root or '/'}; Max-Age={seconds}; HttpOnly; "
        f"SameSite=Strict{secure}"
    )


def _need_own_page(request: HubRequest) -> None:
    """Refuse a form that a page of another host sends. Raises ForbiddenError."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin", "")
    own = urlsplit(request.base_url).netloc
    if site not in ("same-origin", "none") or (origin and urlsplit(origin).netloc != own):
        raise ForbiddenError("This form was sent from a page of another host. Sign in here.")


def _client(request: HubRequest) -> str:
    forwarded = request.headers.get("x-forwarded-for", "")
    return request.context.proxy.client(request.scope, forwarded)
