"""The one table that maps exceptions to HTTP responses.

In clients, `X-Error-Code` has precedence over the status (`hf_raise_for_status`). The response to a
HEAD has no body, so the message is also in `X-Error-Message`. Clients retry after a 5xx status, so
only temporary errors have one.
"""

from __future__ import annotations

import orjson
from starlette.responses import Response

from mirror.core import errors

_INTERNAL = "The mirror failed to answer. Its log has the cause, under the id of this request."

# Error class -> status, X-Error-Code (None: clients show the message unchanged).
_TABLE: dict[type[Exception], tuple[int, str | None]] = {
    errors.RepositoryNotFoundError: (404, "RepoNotFound"),
    errors.RevisionNotFoundError: (404, "RevisionNotFound"),
    errors.EntryNotFoundError: (404, "EntryNotFound"),
    errors.XetHashNotFoundError: (404, None),
    errors.NotOfferedError: (404, None),
    errors.ReadOnlyError: (403, None),
    errors.ForbiddenError: (403, None),
    errors.RefusedByRuleError: (403, None),
    errors.RefusedError: (403, "GatedRepo"),
    errors.UnauthorizedError: (401, "GatedRepo"),
    errors.SlowRequestError: (408, None),
    errors.RequestError: (400, None),
    errors.BadGatewayError: (502, None),
    errors.GatewayTimeoutError: (504, None),
    errors.UnavailableError: (503, None),
}


def error_response(exc: Exception) -> Response:
    """The response for an exception; 500 if the exception is not in the table."""
    known = next((kind for kind in type(exc).__mro__ if kind in _TABLE), None)
    status, code = _TABLE[known] if known else (500, None)
    # Clients put the message into a sentence of their own.
    message = (str(exc) if known else _INTERNAL).removesuffix(".")
    headers = {"x-error-message": header_text(message)}
    if code:
        headers["x-error-code"] = code
    if isinstance(exc, errors.EntryNotFoundError) and exc.known:
        headers["x-repo-commit"] = exc.commit_hash
    if isinstance(exc, errors.UnavailableError) and exc.retry_after is not None:
        headers["retry-after"] = str(exc.retry_after)
    if isinstance(exc, errors.SlowRequestError):
        headers["connection"] = "close"
    if isinstance(exc, errors.UnauthorizedError):
        headers["www-authenticate"] = 'Bearer, Basic realm="hubmirror"'
    return Response(orjson.dumps({"error": message}), status, headers, "application/json")


def header_text(message: str) -> str:
    """The message as one line of printable ASCII, for a header."""
    line = message.encode("ascii", "backslashreplace").decode()
    return "".join(char if char.isprintable() else " " for char in line)[:1000]
