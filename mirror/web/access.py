"""Access control for a mirror that has a token.

hf_xet sends the token only to the hub's own routes. To the Xet routes it sends the access token of
the token route, and to the data URLs of a reconstruction it sends no token. So the access token
(for one commit) and the data URLs (for one block) are signed with the mirror's token, and expire.
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.datastructures import Headers

from mirror.core.errors import ForbiddenError, RequestError, UnauthorizedError
from mirror.web.page_response import answer_error
from mirror.web.reader import SESSION_COOKIE, read_cookies
from mirror.web.routing import Access

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from mirror.web.proxy import ProxySettings
    from mirror.web.routing import Match, Router

SESSION_S = 12 * 3600
"""How long a browser stays signed in, in seconds."""

_SESSION = "/-/session"
_CAS = re.compile(rb"(/-/cas/[^/]+/(?:[^/]+/){1,2}[0-9a-f]{40})/.+")


class Signer:
    """Creates and checks signatures. Without a `token`, all routes are open and nothing is signed.

    `lifetime` is in seconds.
    """

    def __init__(self, token: str = "", lifetime: int = 3600) -> None:
        self._token = token.encode()
        self._lifetime = lifetime

    @property
    def closed(self) -> bool:
        """Whether readers need the token."""
        return bool(self._token)

    def expiry(self) -> int:
        """The time when a signature that is made now expires, in seconds since 1970."""
        return int(time.time()) + self._lifetime

    def access_token(self, cas_path: str, expires: int) -> str:
        """The token that hf_xet sends to the routes below `cas_path` (the path of a commit)."""
        return f"{expires}.{self._sign(cas_path, expires)}" if self._token else "open"

    def query(self, path: str, expires: int) -> str:
        """The query of a data URL, with its signature."""
        if not self._token:
            return ""
        return f"?expires={expires}&signature={self._sign(path, expires)}"

    def check_token(self, given: str) -> None:
        """Raises UnauthorizedError if it is not the mirror's own token."""
        if not hmac.compare_digest(given.encode(), self._token):
            raise UnauthorizedError(
                "This mirror asks for its token: "
                "set HF_TOKEN to the one that its operator gave you."
            )

    def check_access_token(self, given: str, cas_path: str) -> None:
        """Raises UnauthorizedError: the client then asks the token route again."""
        expires, _, signature = given.partition(".")
        if not self._holds(cas_path, expires, signature):
            raise UnauthorizedError(
                "The Xet access token is wrong or has expired. Ask for another."
            )

    def session(self) -> str:
        """The value of the cookie of a browser that has signed in."""
        expires = int(time.time()) + SESSION_S
        return f"{expires}.{self._sign(_SESSION, expires)}"

    def check_session(self, given: str) -> None:
        """Raises UnauthorizedError."""
        expires, _, signature = given.partition(".")
        if not self._holds(_SESSION, expires, signature):
            raise UnauthorizedError("The session has ended. Sign in again.")

    def check_query(self, query: bytes, path: str) -> None:
        """Raises ForbiddenError: the client then asks for the reconstruction again."""
        fields = parse_qs(query.decode("ascii", "replace"))
        expires, signature = (fields.get(name, [""])[0] for name in ("expires", "signature"))
        if not self._holds(path, expires, signature):
            raise ForbiddenError("The signature of this URL is wrong or has expired. Ask again.")

    def _holds(self, path: str, expires: str, signature: str) -> bool:
        if not re.fullmatch(r"[0-9]{1,12}", expires) or int(expires) < time.time():
            return False
        return hmac.compare_digest(signature.encode(), self._sign(path, int(expires)).encode())

    def _sign(self, path: str, expires: int) -> str:
        return hmac.new(self._token, f"{expires} {path}".encode(), "sha256").hexdigest()


class Gate:
    """ASGI middleware: rejects requests without the token or signature that their route needs."""

    def __init__(self, app: ASGIApp, proxy: ProxySettings, router: Router) -> None:
        self._app = app
        self._proxy = proxy
        self._signer = proxy.signer
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._signer.closed:
            try:
                self._check(scope)
            except (ForbiddenError, UnauthorizedError) as exc:
                await answer_error(exc, scope, self._proxy)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path, headers = scope["raw_path"], Headers(raw=scope["headers"])
        access, token = self._access(path), given_token(headers)
        if access is Access.OPEN:
            return
        if access is Access.SIGNATURE:
            self._signer.check_query(scope["query_string"], path.decode("ascii", "replace"))
        elif access is Access.CAS_TOKEN and (prefix := _CAS.fullmatch(path)):
            self._signer.check_access_token(token, prefix[1].decode("ascii", "replace"))
        elif (
            not token
            and scope["method"] in ("GET", "HEAD")
            and SESSION_COOKIE in headers.get("cookie", "")
        ):
            self._signer.check_session(read_cookies(headers).get(SESSION_COOKIE, ""))
        else:
            self._signer.check_token(token)

    def _access(self, raw_path: bytes) -> Access:
        try:
            match = self._router.match(raw_path)
        except RequestError:
            return Access.TOKEN
        if match is None:
            return Access.TOKEN
        route = match.route
        if route.access is Access.OPEN and not _is_exact(match, raw_path):
            return Access.TOKEN
        return route.access


def _is_exact(match: Match, raw_path: bytes) -> bool:
    """Whether the path is written exactly as a template of its route, without an encoding or an
    empty segment."""
    given = iter(match.params)
    return any(
        raw_path.decode("ascii", "replace")
        == re.sub(r"\{\w+\}", lambda _: next(given, ""), template)
        for template in match.route.templates
    )


def given_token(headers: Headers) -> str:
    """The token in the Authorization header: a bearer token, or the password of basic auth (git,
    pip, uv)."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value.strip()).decode().partition(":")[2]
            except ValueError:
                return ""
    return ""
