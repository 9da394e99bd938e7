"""git and git-lfs for the repositories of the hub: a clone has upstream's commit ids."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
from starlette.responses import Response

from mirror.core.errors import (
    NotFoundError,
    NotOfferedError,
    ReadOnlyError,
    RequestError,
    UnavailableError,
)
from mirror.derived import git_repository
from mirror.web import git
from mirror.web.errors import error_response

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.core.source import Snapshot
    from mirror.web.request import HubRequest

_MAX_OBJECTS = 1000
_WANT = re.compile(rb"want ([0-9a-f]{40})")
_LFS = "application/vnd.git-lfs+json"


def refs(request: HubRequest) -> Response:
    """`info/refs?service=git-upload-pack`."""
    return _in_words(request, lambda one: git.advertise(one, lambda: _view(one)))


def upload_pack(request: HubRequest) -> Response:
    """The objects that a clone or a fetch requests."""
    return _in_words(request, _upload_pack)


def _upload_pack(request: HubRequest) -> Response:
    body = git.said(request)
    if b"filter " in body and b"deepen" not in body:
        wanted = {name.decode() for name in _WANT.findall(body)}
        shallow = (one.commit_hash for one in _snapshots(request).values() if _is_shallow(one))
        if not wanted.isdisjoint(shallow):  # git would ask for this commit again without end
            raise RequestError(
                "This mirror has no history of the repository. Use --depth=1 with --filter."
            )
    return git.send_objects(request, lambda: _view(request))


def _is_shallow(snapshot: Snapshot) -> bool:
    return snapshot.commit is not None and snapshot.commit.has_parents


def lfs_batch(request: HubRequest) -> Response:
    """Where LFS files are (git-lfs specification, Batch API): their ordinary addresses."""
    request = _without_suffix(request)
    try:
        asked = orjson.loads(request.body)
        if asked["operation"] != "download":
            raise ReadOnlyError
        wanted = [(str(one["oid"]), int(one["size"])) for one in asked["objects"]]
    except (ValueError, TypeError, KeyError) as exc:
        raise RequestError("The body is not a request of git-lfs.") from exc
    if len(wanted) > _MAX_OBJECTS:
        raise RequestError(f"The request has more than {_MAX_OBJECTS} objects. git-lfs sends 100.")
    places = _places(request)
    rows = [_lfs_row(oid, size, places.get(oid)) for oid, size in wanted]
    body = {"transfer": "basic", "objects": rows, "hash_algo": "sha256"}
    return Response(orjson.dumps(body), 200, media_type=_LFS)


def _lfs_row(oid: str, size: int, url: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"oid": oid, "size": size}
    if url is None:
        text = "This mirror does not have the file. Ask its operator to pull the whole revision"
        return row | {"error": {"code": 404, "message": text}}
    return row | {"actions": {"download": {"href": url}}}


def _places(request: HubRequest) -> dict[str, str]:
    """The URLs of all LFS files of the repository, by sha256."""
    places: dict[str, str] = {}
    for snapshot in _snapshots(request).values():
        base = f"{request.base_url}/{snapshot.repo}/resolve/{snapshot.commit_hash}"
        for path, stored in snapshot.files.items():
            if sha256 := stored.file.lfs_sha256:
                places.setdefault(sha256, f"{base}/{quote(path)}")
    return places


def _view(request: HubRequest) -> Path:
    snapshots = _snapshots(request)
    head = snapshots.pop("HEAD")
    names = [name for name, one in snapshots.items() if one.commit_hash == head.commit_hash]
    branches = sorted(
        (name for name in names if name.startswith("refs/heads/")),
        key=lambda name: (name != "refs/heads/main", name),
    )
    folder = request.context.state.folder / "git-hub"
    ref = branches[0] if branches else ""
    return git_repository.view(folder, head.repo, (ref, head), snapshots)


def _snapshots(request: HubRequest) -> dict[str, Snapshot]:
    """The snapshots of `HEAD` and of all refs that can be read."""
    found = {"HEAD": request.snapshot()}
    for name in request.context.source.refs(request.repo):
        try:
            found[name] = request.snapshot(name)
        except (NotFoundError, UnavailableError):
            continue
    return found


def _without_suffix(request: HubRequest) -> HubRequest:
    """The request for the repository without `.git`, which git-lfs and some users add."""
    repo_id = request.match.repo_id.removesuffix(".git")
    return replace(request, match=replace(request.match, repo_id=repo_id))


def _in_words(request: HubRequest, handler: Callable[[HubRequest], Response]) -> Response:
    """The response of the handler; a 404 is plain text, because git shows its users no other."""
    try:
        return handler(_without_suffix(request))
    except (NotFoundError, NotOfferedError) as exc:
        answer = error_response(exc)
        headers = {name: text for name, text in answer.headers.items() if name.startswith("x-")}
        return Response(f"{exc}\n", answer.status_code, headers, "text/plain")
