"""CORS headers for scripts of other origins (transformers.js in a browser)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# The headers that huggingface.js reads of the hub's answers.
_EXPOSED = (
    "accept-ranges", "content-disposition", "content-range", "etag", "link", "x-error-code",
    "x-error-message", "x-linked-etag", "x-linked-size", "x-repo-commit", "x-request-id",
    "x-total-count", "x-xet-access-token", "x-xet-cas-url", "x-xet-hash", "x-xet-token-expiration",
)  # fmt: skip


class Cors:
    """ASGI middleware: starlette's, for requests that have an origin. Other clients send none, and
    do not pay for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._cors = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_cross = any(name == b"origin" for name, _ in scope.get("headers", ()))
        await (self._cors if is_cross else self._app)(scope, receive, send)
