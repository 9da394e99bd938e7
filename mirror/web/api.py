"""Handlers for the hub's JSON about one repository, and for small fixed responses."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

import orjson
from starlette.responses import Response

from mirror.core.errors import (
    EntryNotFoundError,
    NotFoundError,
    NotOfferedError,
    RequestError,
    UnavailableError,
)
from mirror.core.repo import RepoType
from mirror.core.tree import RepoFile, check_path
from mirror.derived import hub_json
from mirror.web.paging import page_link

if TYPE_CHECKING:
    from mirror.core.source import Snapshot
    from mirror.core.tree import RepoFolder
    from mirror.web.request import HubRequest

# llama.cpp does not follow a Link header, so one page is large enough for real repositories.
TREE_PAGE = 10_000


def json_response(body: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def info(request: HubRequest) -> Response:
    """`/api/{type}s/{repo}[/revision/{revision}]` (`model_info`, `snapshot_download`)."""
    snapshot = request.revision_and_path()[0] if request.params else request.snapshot()
    expand, blobs = request.several("expand"), request.flag("blobs")
    return json_response(
        hub_json.info(request.facts(snapshot), request.files(snapshot), expand, blobs=blobs)
    )


def tree(request: HubRequest) -> Response:
    """The entries of a folder (`list_repo_tree`). If the path is not a folder, the response is
    EntryNotFound; then HfFileSystem lists the parent folder."""
    snapshot, path = request.revision_and_path()
    listed = request.context.trees.get(snapshot, lambda: request.files(snapshot))
    if path and check_path(path) not in listed:
        raise snapshot.not_found(path)
    entries = listed.entries(path, recursive=request.flag("recursive"))
    start = request.number("cursor", 0, len(entries))
    end = start + request.number("limit", TREE_PAGE, TREE_PAGE)
    headers = page_link(request, end) if end < len(entries) else None
    return json_response(_rows(request, snapshot, entries[start:end]), headers)


def paths_info(request: HubRequest) -> Response:
    """The entries at the requested paths, without absent paths (`get_paths_info`)."""
    snapshot, _ = request.revision_and_path()
    paths, expand = _asked_paths(request)
    listed = request.context.trees.get(snapshot, lambda: request.files(snapshot))
    entries = [listed.entry(path) for path in paths]
    commit = hub_json.last_commit(snapshot) if expand else None
    request.asked.paths |= {entry.path for entry in entries if isinstance(entry, RepoFile)}
    return json_response(
        [hub_json.tree_row(entry, commit) for entry in entries if entry is not None]
    )


def refs(request: HubRequest) -> Response:
    body = hub_json.refs(request.context.source.refs(request.repo))
    if not request.flag("include_prs"):
        del body["pullRequests"]
    return json_response(body)


def commits(request: HubRequest) -> Response:
    """Only the snapshot's own commit, because a folder has no history."""
    snapshot, _ = request.revision_and_path()
    page = hub_json.commits(snapshot) if request.query.get("p", "0") == "0" else []
    return json_response(page, {"x-total-count": "1"})


def tree_size(request: HubRequest) -> Response:
    snapshot, path = request.revision_and_path()
    start = f"{check_path(path)}/" if path else ""
    sizes = [one.file.size for name, one in snapshot.files.items() if name.startswith(start)]
    if path and not sizes:
        sizes = [snapshot.find(path).file.size]
    return json_response({"path": path, "size": sum(sizes)})


def discussions(request: HubRequest) -> Response:
    if request.params:
        raise NotOfferedError
    request.snapshot()
    return json_response({"discussions": [], "count": 0, "start": 0})


def auth_check(request: HubRequest) -> Response:
    request.snapshot()
    return json_response({})


def parquet(request: HubRequest) -> Response:
    """The URLs of the parquet export, by config and split as on the hub, if its ref was pulled."""
    snapshot = request.snapshot("refs/convert/parquet")
    urls: dict[str, dict[str, list[str]]] = {}
    for path in sorted(snapshot.files):
        config, _, rest = path.partition("/")
        split, slash, _ = rest.partition("/")
        if slash and path.endswith(".parquet"):
            base = f"{request.base_url}/{snapshot.repo}/resolve/refs%2Fconvert%2Fparquet"
            url = f"{base}/{quote(path)}"
            urls.setdefault(config, {}).setdefault(split, []).append(url)
    body: Any = urls
    for key in request.params:
        body = body.get(key) if isinstance(body, dict) else None
    if body is None:
        raise EntryNotFoundError(snapshot.repo, snapshot.commit_hash, "/".join(request.params))
    return json_response(body)


def organization(request: HubRequest) -> Response:
    """What upstream said about the publisher of kernels (`get_organization_overview`); the kernels
    package loads nothing from a publisher that the hub does not trust. The newest record has it."""
    name = request.params[0].lower()
    newest: Snapshot | None = None
    for entry in request.context.catalog.entries(RepoType.KERNEL):
        if (entry.repo.author or "").lower() != name:
            continue
        with contextlib.suppress(NotFoundError, UnavailableError):
            snapshot = request.context.source.snapshot(entry.repo, "HEAD")
            if snapshot.organization and (newest is None or _is_newer(snapshot, newest)):
                newest = snapshot
    if newest is None:
        raise NotOfferedError(
            f"This mirror does not know what upstream says about {request.params[0][:96]!r}: only "
            "the pull of a kernel of this organization records it. To load a kernel without it, "
            "set trust_remote_code."
        )
    return json_response(dict(newest.organization))


def _is_newer(one: Snapshot, other: Snapshot) -> bool:
    return one.last_modified > other.last_modified


def whoami(_: HubRequest) -> Response:
    """A fixed response for every token, so that `login` and `whoami` work (`HfApi.whoami`)."""
    token = {"displayName": "hubmirror", "role": "read"}
    return json_response({
        "type": "user", "id": "0", "name": "hubmirror", "fullname": "hubmirror", "email": "",
        "emailVerified": True, "isPro": False, "orgs": [], "canPay": False,
        "auth": {"type": "access_token", "accessToken": token},
    })  # fmt: skip


def agent_harnesses(_: HubRequest) -> Response:
    return json_response({"standardEnvVars": [], "harnesses": {}})


def empty_object(_: HubRequest) -> Response:
    return json_response({})


def identity(request: HubRequest) -> Response:
    """The ids of the managed caches: a pull compares them with the id of its own cache."""
    return json_response({"caches": request.context.source.identities()})


def not_offered(_: HubRequest) -> Response:
    raise NotOfferedError


def _rows(
    request: HubRequest, snapshot: Snapshot, entries: list[RepoFile | RepoFolder]
) -> list[dict[str, Any]]:
    commit = hub_json.last_commit(snapshot) if request.flag("expand") else None
    return [hub_json.tree_row(entry, commit) for entry in entries]


def _asked_paths(request: HubRequest) -> tuple[list[str], bool]:
    """The requested paths and `expand`. Python sends a form; JavaScript and Rust send JSON."""
    try:
        if "json" in request.headers.get("content-type", ""):
            body = orjson.loads(request.body)
            paths, expand = [str(path) for path in body["paths"]], body.get("expand") is True
        else:
            form = parse_qsl(request.body.decode(), keep_blank_values=True)
            paths = [value for name, value in form if name in ("paths", "paths[]")]
            expand = any(pair in form for pair in _EXPAND)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise RequestError("The body is neither a form with `paths` nor JSON with them.") from exc
    return list(dict.fromkeys(path.strip("/") for path in paths)), expand


_EXPAND = (("expand", "true"), ("expand", "True"), ("expand", "1"))
