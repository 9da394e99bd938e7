"""Reads of the hub that this mirror does not answer, each with its reason, and lists that are
always empty here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.core.errors import NotOfferedError
from mirror.web.api import json_response
from mirror.web.routing import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from mirror.web.request import HubRequest

_REASONS = {
    "space-runtime": (
        "This mirror serves the files of Spaces, and does not run them.",
        (
            "/api/spaces/{repo}/runtime", "/api/spaces/{repo}/variables",
            "/api/spaces/{repo}/secrets", "/api/spaces/{repo}/volumes",
            "/api/spaces/{repo}/logs/{log}", "/api/spaces/hardware", "/api/spaces/templates",
            "/api/spaces/zero-gpu/quota",
        ),
    ),
    "semantic-search": (
        "This mirror does not search by meaning. Search the names of Spaces: "
        "/api/spaces?search=WORD",
        ("/api/spaces/semantic-search",),
    ),
    "people": (
        "This mirror knows repositories, and does not know users and members.",
        (
            "/api/users/{name}/{word*}", "/api/organizations/{name}/followers",
            "/api/organizations/{name}/members", "/api/settings/{word+}",
            "/api/{type}/{repo}/user-access-request/{status}",
        ),
    ),
    "collection": ("This mirror has no collections.", ("/api/collections/{slug+}",)),
    "paper": ("This mirror has no papers.", ("/api/papers/{id}", "/papers/{id}")),
    "buckets": (
        "This mirror has no buckets. It serves models, datasets, Spaces and kernels.",
        ("/api/buckets/{bucket+}", "/buckets/{bucket+}"),
    ),
    "jobs": (
        "This mirror runs no jobs.", ("/api/jobs/{job+}", "/api/scheduled-jobs/{job+}"),
    ),
    "leaderboard": (
        "This mirror has no leaderboards.", ("/api/datasets/{repo}/leaderboard",),
    ),
}  # fmt: skip


def _route(name: str, reason: str, templates: tuple[str, ...]) -> Route:
    def handler(_: HubRequest) -> Response:
        raise NotOfferedError(reason)

    return Route(name, templates, handler)


def _no_entries(request: HubRequest) -> Response:
    if request.match.repo_id:
        request.snapshot()
    return json_response([])


ROUTES = (
    Route(
        "empty-lists",
        (
            "/api/{type}/{repo}/likers", "/api/users/{name}/likes", "/api/collections",
            "/api/daily_papers", "/api/papers/search", "/api/settings/repositories",
            "/api/organizations/{name}/settings/repositories",
        ),
        _no_entries,
    ),
    *(_route(name, reason, templates) for name, (reason, templates) in _REASONS.items()),
)  # fmt: skip
