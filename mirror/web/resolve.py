"""Handlers for files: `/{repo}/resolve/{revision}/{path}` and `/{repo}/raw/…`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import Response

from mirror.core.tree import check_path, lfs_pointer
from mirror.web.file_response import blob_response, body_response
from mirror.web.xet import hints

if TYPE_CHECKING:
    from mirror.core.tree import RepoFile
    from mirror.web.request import HubRequest

# Files that a browser shows as text; all other files are bytes. No file is served as HTML.
_TEXT = "text/plain; charset=utf-8"
_TEXT_SUFFIXES = frozenset({
    ".cfg", ".csv", ".html", ".ini", ".jinja", ".json", ".jsonl", ".md", ".py", ".sh", ".toml",
    ".tsv", ".txt", ".xml", ".yaml", ".yml",
})  # fmt: skip


def resolve(request: HubRequest) -> Response:
    """The file, or a range of it (`hf_hub_download`; every client)."""
    snapshot, path = request.revision_and_path()
    request.asked.paths.add(path)
    stored = snapshot.find(check_path(path))
    request.context.xet_hashes.want(stored)
    file = request.context.xet_hashes.entry(stored)
    headers = _headers(file, snapshot.commit_hash) | hints(request, file, snapshot.commit_hash)
    if _is_known(request.headers.get("if-none-match", ""), headers["etag"]):
        return Response(status_code=304, headers=headers)
    return blob_response(stored, headers, request.file_request)


def raw(request: HubRequest) -> Response:
    """Like `resolve`, but with the pointer of an LFS file instead of its content
    (@huggingface/hub)."""
    snapshot, path = request.revision_and_path()
    request.asked.paths.add(path)
    file = snapshot.find(check_path(path)).file
    if file.lfs_sha256 is None:
        return resolve(request)
    headers = {
        "x-repo-commit": snapshot.commit_hash,
        "etag": f'"{file.blob_id}"',
        "content-type": _TEXT,
    }
    if _is_known(request.headers.get("if-none-match", ""), headers["etag"]):
        return Response(status_code=304, headers=headers)
    return body_response(lfs_pointer(file.lfs_sha256, file.size), headers, request.file_request)


def _is_known(if_none_match: str, etag: str) -> bool:
    """Whether the client has the file already (RFC 9110, section 13.1.2: a list, compared
    weakly)."""
    given = (one.strip().removeprefix("W/") for one in if_none_match.split(","))
    return if_none_match.strip() == "*" or etag in given


def _headers(file: RepoFile, commit_hash: str) -> dict[str, str]:
    """The headers that `get_hf_file_metadata` and download managers read.

    The etag is strong and quoted: Rust's hf-hub uses it unchanged as the name of the blob.
    """
    name = file.path.rpartition("/")[2]
    suffix = name[name.rfind(".") :].lower()
    plain = re.sub(r"[^ -~]|[\"\\\\]", "_", name)
    headers = {
        "x-repo-commit": commit_hash,
        "etag": f'"{file.etag}"',
        "content-type": _TEXT if suffix in _TEXT_SUFFIXES else "application/octet-stream",
        "content-disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{plain}\";",
        "x-content-type-options": "nosniff",
    }
    if file.lfs_sha256:
        headers |= {"x-linked-etag": f'"{file.lfs_sha256}"', "x-linked-size": str(file.size)}
    return headers
