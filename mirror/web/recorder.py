"""Writes down what clients ask for, for `hubmirror record`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.responses import Response

    from mirror.web.request import HubRequest
    from mirror.web.routing import Route

_FILES = frozenset({"resolve", "raw"})
_CONTENT_ERRORS = frozenset({401, 403, 404, 416})
_BESIDE_THE_HUB = frozenset({"git-refs", "simple-project", "wheels", "constraints"})


class Recorder:
    """Appends one JSON line to a file for each distinct question. Several processes can append to
    one file."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._written: set[bytes] = set()

    def add(self, request: HubRequest, response: Response) -> None:
        if not _is_about_content(request, response):
            return
        is_of_hub = bool(request.match.repo_id)
        question = _about_repo(request) if is_of_hub else _beside_the_hub(request)
        status, headers = response.status_code, response.headers
        if status >= 400:
            question["error"] = headers.get("x-error-message", "")
            question["absent"] = "x-repo-commit" in headers
        line = orjson.dumps({**question, "status": status}) + b"\n"
        if line not in self._written:
            self._written.add(line)
            os.write(self._file, line)


def _is_about_content(request: HubRequest, response: Response) -> bool:
    """Whether the answer says that the mirror has something, or lacks it. A malformed request and a
    route that is not offered say neither."""
    if 400 <= response.status_code < 500 and response.status_code not in _CONTENT_ERRORS:
        return False
    if not request.match.repo_id:
        return request.match.route.name in _BESIDE_THE_HUB
    is_offered = response.status_code != 404 or "x-error-code" in response.headers
    return is_offered or request.asked.snapshot is not None


def _about_repo(request: HubRequest) -> dict[str, Any]:
    """The revision and the files of a repository. If the revision was not found, they are those of
    the path."""
    match, asked = request.match, request.asked
    if asked.snapshot is not None:
        repo, commit_hash = asked.snapshot.repo, asked.snapshot.commit_hash
        repo_id, revision, paths = repo.repo_id, asked.revision, sorted(asked.paths)
    else:
        repo_id, commit_hash = match.repo_id, ""
        revision, *parts = request.params if _names_revision(match.route) else ("HEAD",)
        paths = ["/".join(parts)] if match.route.name in _FILES and parts else []
    return {
        "repo_type": match.repo_type.value,
        "repo_id": repo_id,
        "revision": revision,
        "commit_hash": commit_hash,
        "paths": paths,
    }


def _names_revision(route: Route) -> bool:
    """Whether the first parameter of a path is a revision."""
    return "{revision" in route.templates[0] or "{commit}" in route.templates[0]


def _beside_the_hub(request: HubRequest) -> dict[str, Any]:
    """The path of a git repository, a package or another file that is not on the hub."""
    query = "?service=git-upload-pack" if request.match.route.name == "git-refs" else ""
    return {"path": f"{request.path}{query}"}
