"""Handlers for the pages. At the hub's own addresses they answer browsers only."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response

from mirror.core.errors import BlobUnreadableError, NotOfferedError
from mirror.core.repo import Repo, RepoType, is_repo_id
from mirror.core.tree import RepoFile, check_path
from mirror.pages.browse import SORTS, Index, Query
from mirror.pages.links import CardLinks
from mirror.pages.messages import messages
from mirror.pages.preview import preview
from mirror.pages.rendering import Renderer
from mirror.pages.repository import read_repository
from mirror.pages.snippets import snippets
from mirror.pages.template import ASSETS
from mirror.web.health import welcome
from mirror.web.page_response import page
from mirror.web.reader import reader_of, wants_page
from mirror.web.tries import TryLimit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from mirror.core.source import Snapshot
    from mirror.core.tree import RepoFolder
    from mirror.derived.catalog import Catalog
    from mirror.derived.state import State
    from mirror.pages.status import StatusBoard
    from mirror.web.request import HubRequest

_TREE_PAGE = 1000
_TYPES = {repo_type.value: repo_type for repo_type in RepoType}


class Pages:
    """What the pages keep between requests."""

    def __init__(self, state: State, catalog: Catalog, board: StatusBoard) -> None:
        self.index = Index(catalog)
        self.renderer = Renderer(state)
        self.board = board
        self.tries = TryLimit()


def home(request: HubRequest) -> Response:
    """What is here, for browsers; else what to set on a client."""
    return _browse(request, RepoType.MODEL) if wants_page(request.scope) else welcome(request)


def browse(request: HubRequest) -> Response:
    _need_browser(request)
    return _browse(request, request.match.repo_type)


def repository(request: HubRequest) -> Response:
    """The page of a repository, or of an organisation."""
    _need_browser(request)
    name = request.match.repo_id
    index = request.context.pages.index
    is_one_part = request.match.repo_type is RepoType.MODEL and "/" not in name
    if is_one_part and not (is_repo_id(name) and index.is_here(Repo(RepoType.MODEL, name))):
        author = _author(index, name)
        if author:
            return _browse(request, _TYPES.get(request.query.get("type", "")), author)
    return _repository(request)


def files(request: HubRequest) -> Response:
    """The files of a folder of a revision."""
    _need_browser(request)
    snapshot, folder = request.revision_and_path()
    tree = request.context.trees.get(snapshot, lambda: request.files(snapshot))
    if folder and check_path(folder) not in tree:
        raise snapshot.not_found(folder)
    entries = tree.entries(folder)
    pages = max(1, -(-len(entries) // _TREE_PAGE))
    number = min(request.number("page", 1, pages), pages)
    shown = entries[(number - 1) * _TREE_PAGE : number * _TREE_PAGE]
    return page(
        request,
        "tree.html",
        **_place(request, snapshot, folder),
        folder=folder,
        file_name="",
        parent=folder.rpartition("/")[0],
        rows=[_tree_row(snapshot, entry) for entry in shown],
        number=number,
        pages=pages,
        absent=sorted(snapshot.absent.items())[:_TREE_PAGE] if not folder else [],
    )


def file(request: HubRequest) -> Response:
    """One file: its digest, and a preview."""
    _need_browser(request)
    snapshot, path = request.revision_and_path()
    stored = snapshot.find(check_path(path))
    try:
        stored.check()
        problem = ""
    except BlobUnreadableError as exc:
        problem = str(exc)
    facts = request.facts(snapshot)
    found = preview(facts, stored.file, request.context.pages.renderer)
    folder, _, name = path.rpartition("/")
    card = found.card
    return page(
        request,
        "blob.html",
        **_place(request, snapshot, path),
        folder=folder,
        file_name=name,
        file=request.context.xet_hashes.entry(stored),
        problem=problem,
        preview=found,
        card_html=_card_html(request, snapshot, card.segments, folder) if card else "",
    )


def status(request: HubRequest) -> Response:
    _need_browser(request)
    return page(
        request, "status.html", section="status", status=request.context.pages.board.status()
    )


def status_json(request: HubRequest) -> Response:
    """The status for machines."""
    found = request.context.pages.board.status()
    body = orjson.dumps({"is_whole": found.is_whole} | asdict(found))
    return Response(body, 200, {"cache-control": "no-cache"}, "application/json")


def static(request: HubRequest) -> Response:
    """A style sheet, a script or an icon."""
    asset = ASSETS.get(request.params[0])
    if asset is None:
        raise NotOfferedError
    headers = {
        "cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"
    }  # fmt: skip
    return Response(asset.body, 200, headers, asset.media_type)


def _need_browser(request: HubRequest) -> None:
    """To clients of the API, a page is not there."""
    if not wants_page(request.scope):
        raise NotOfferedError


def _browse(request: HubRequest, repo_type: RepoType | None, author: str = "") -> Response:
    index = request.context.pages.index
    given = dict(request.query)
    counts = index.counts()
    if author:
        given["author"] = author
        counts = {one: index.find(one, Query.parse({"author": author})).total for one in RepoType}
        repo_type = repo_type or next((one for one in RepoType if counts[one]), RepoType.MODEL)
    repo_type = repo_type or RepoType.MODEL
    reader = reader_of(request.scope, request.context.proxy)
    query = Query.parse(given)
    return page(
        request,
        "browse.html",
        section=repo_type.plural,
        repo_type=repo_type,
        author=author,
        counts=counts,
        found=index.find(repo_type, query),
        sorts=SORTS,
        empty_commands=_empty_commands(repo_type, reader.base_url),
    )


def _empty_commands(repo_type: RepoType, base_url: str) -> tuple[str, str, str]:
    name = {RepoType.MODEL: "Qwen/Qwen3-0.6B", RepoType.DATASET: "stanfordnlp/imdb"}
    repo = Repo(repo_type, name.get(repo_type, "ORG/NAME"))
    typed = "" if repo_type is RepoType.MODEL else f" --repo-type {repo_type.value}"
    return (
        f"hubmirror pull {repo}",
        "hubmirror push HOST:/srv/hubmirror",
        f"export HF_ENDPOINT={base_url}\nhf download {repo.repo_id}{typed}",
    )


def _author(index: Index, name: str) -> str:
    """The organisation of this name, as it is written; empty if nothing of it is here."""
    authors = (item.repo.author or "" for repo_type in RepoType for item in index.items(repo_type))
    return next((author for author in authors if author.lower() == name.lower()), "")


def _repository(request: HubRequest) -> Response:
    context = request.context
    snapshot = request.snapshot()
    facts = request.facts(snapshot)
    refs = context.source.refs(snapshot.repo)
    shown = read_repository(facts, refs, context.pages.renderer, context.pages.index.is_here)
    names = [one.name for one in shown.revisions if one.commit_hash == snapshot.commit_hash]
    revision = "main" if "main" in names or not names else names[0]
    if not names:
        revision = snapshot.commit_hash
    closed = context.proxy.signer.closed
    models = context.pages.board.models_of(snapshot.repo)
    return page(
        request,
        "repository.html",
        section=snapshot.repo.repo_type.plural,
        page=shown,
        revision=revision,
        snippets=snippets(facts, request.base_url, revision, models, closed=closed),
        closed=closed,
        card_html=_card_html(request, snapshot, shown.card.segments),
    )


def _card_html(
    request: HubRequest, snapshot: Snapshot, segments: Sequence[Any], folder: str = ""
) -> str:
    reader = reader_of(request.scope, request.context.proxy)
    is_here = request.context.pages.index.is_here
    links = CardLinks(snapshot, reader.root, is_here, messages(reader.language), folder)
    return links.html(segments)


def _place(request: HubRequest, snapshot: Snapshot, path: str) -> Mapping[str, Any]:
    """What the pages below a revision have in common."""
    segments = request.params
    end = len(segments) - len(path.split("/")) if path else len(segments)
    reader = reader_of(request.scope, request.context.proxy)
    return {
        "section": snapshot.repo.repo_type.plural,
        "snapshot": snapshot,
        "revision": "/".join(segments[:end]),
        "base": f"{reader.root}/{snapshot.repo}",
    }


def _tree_row(snapshot: Snapshot, entry: RepoFile | RepoFolder) -> Mapping[str, Any]:
    name = entry.path.rpartition("/")[2]
    if not isinstance(entry, RepoFile):
        return {"is_folder": True, "path": entry.path, "name": name}
    return {
        "is_folder": False,
        "path": entry.path,
        "name": name,
        "size": entry.size,
        "digest": entry.etag,
        "digest_kind": "sha256" if entry.lfs_sha256 else "git",
        "problem": snapshot.files[entry.path].problem,
    }
