"""The one table that turns errors into answers.

`X-Error-Code` outranks the status in clients (`hf_raise_for_status`); a HEAD has no body, so the
message travels in `X-Error-Message` as well. 5xx are retried by clients, so only outages use them.
"""

from __future__ import annotations

import orjson
from starlette.responses import Response

from mirror.core import errors

_INTERNAL = "The mirror failed to answer. Its log, under this request's id, says why."

# Error class -> status, X-Error-Code (None: clients take the message as it is).
_TABLE: dict[type[Exception], tuple[int, str | None]] = {
    errors.RepositoryNotFoundError: (404, "RepoNotFound"),
    errors.RevisionNotFoundError: (404, "RevisionNotFound"),
    errors.EntryNotFoundError: (404, "EntryNotFound"),
    errors.XetHashNotFoundError: (404, None),
    errors.NotOfferedError: (404, None),
    errors.ReadOnlyError: (403, None),
    errors.ForbiddenError: (403, None),
    errors.UnauthorizedError: (401, "GatedRepo"),
    errors.SlowRequestError: (408, None),
    errors.RequestError: (400, None),
    errors.UnavailableError: (503, None),
}


def error_response(exc: Exception) -> Response:
    """The answer for an error; 500 for one that nobody expected."""
    known = next((kind for kind in type(exc).__mro__ if kind in _TABLE), None)
    status, code = _TABLE[known] if known else (500, None)
    message = str(exc) if known else _INTERNAL
    headers = {"x-error-message": header_text(message)}
    if code:
        headers["x-error-code"] = code
    if isinstance(exc, errors.EntryNotFoundError) and exc.known:
        headers["x-repo-commit"] = exc.commit_hash
    if isinstance(exc, errors.UnavailableError):
        headers["retry-after"] = str(exc.retry_after)
    if isinstance(exc, errors.SlowRequestError):
        headers["connection"] = "close"
    if isinstance(exc, errors.UnauthorizedError):
        headers["www-authenticate"] = 'Bearer, Basic realm="hubmirror"'
    return Response(orjson.dumps({"error": message}), status, headers, "application/json")


def header_text(message: str) -> str:
    """One line of printable ASCII, which every client can read."""
    line = message.encode("ascii", "backslashreplace").decode()
    return "".join(char if char.isprintable() else " " for char in line)[:1000]
