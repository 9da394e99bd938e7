"""The routes of Xet's read protocol (xet-core `RemoteClient`; hf_xet 1.1 to 1.8).

The CAS URL of the token route contains the repository and the commit, because later requests of the
client contain only a hash.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mirror.core.errors import ForbiddenError, NotOfferedError, RequestError
from mirror.core.tree import check_path
from mirror.web.api import json_response
from mirror.web.file_response import Span, parse_range, xorb_response
from mirror.web.xorb import CHUNK, Xorb, terms

if TYPE_CHECKING:
    from starlette.responses import Response

    from mirror.core.repo import Repo
    from mirror.core.source import Snapshot, StoredFile
    from mirror.core.tree import RepoFile
    from mirror.web.request import HubRequest
    from mirror.web.xorb import Term

_XET_HASH = re.compile(r"[0-9a-f]{64}")
_RANGE_END = re.compile(r"bytes=[0-9]{1,18}-([0-9]{1,18})")
_BLOCK = re.compile(r"[0-9]{1,9}")


def cas_path(repo: Repo, commit_hash: str) -> str:
    """The path of the CAS URL of a commit."""
    return f"/-/cas/{repo.repo_type.plural}/{repo.repo_id}/{commit_hash}"


def hints(request: HubRequest, file: RepoFile, commit_hash: str) -> dict[str, str]:
    """The headers of a file that say how to get it by Xet (`parse_xet_file_data_from_response`)."""
    if file.xet_hash is None:
        return {}
    repo = request.repo
    route = f"{request.base_url}/api/{repo.repo_type.plural}/{repo.repo_id}/xet-read-token"
    return {"x-xet-hash": file.xet_hash, "link": f'<{route}/{commit_hash}>; rel="xet-auth"'}


def read_token(request: HubRequest) -> Response:
    """Where to ask for reconstructions (`parse_xet_connection_info_from_headers`, hf_xet)."""
    snapshot, _ = request.revision_and_path()
    path = cas_path(snapshot.repo, snapshot.commit_hash)
    expires = request.context.proxy.signer.expiry()
    url, token = request.base_url + path, request.context.proxy.signer.access_token(path, expires)
    headers = {
        "x-xet-cas-url": url,
        "x-xet-access-token": token,
        "x-xet-token-expiration": str(expires),
    }
    return json_response({"casUrl": url, "exp": expires, "accessToken": token}, headers)


def reconstruction(request: HubRequest) -> Response:
    """`/v2/reconstructions/{hash}`, and the v1 form, which hf_xet 1.1 asks below another name."""
    *version, xet_hash = request.params[1:]
    if not _XET_HASH.fullmatch(xet_hash):
        raise RequestError(f"{xet_hash[:80]!r} is not a xet hash.")
    snapshot = request.snapshot(request.params[0])
    asked = request.headers.get("range", "")
    stored = request.context.xet_hashes.find(snapshot, xet_hash, _last_byte(asked))
    request.asked.paths.add(stored.file.path)
    size = stored.file.size
    try:
        if not size:
            raise ValueError("an empty file has no terms, and hf_xet 1.1 asks for them for ever")
        span = parse_range(asked, size) or Span(0, size)
    except ValueError:
        return json_response({}, {"content-range": f"bytes */{size}"}, 416)
    wanted = list(terms(size, span.offset, span.offset + span.count - 1))
    rows = [_row(xet_hash, term) for term in wanted]
    urls = _urls(request, snapshot, stored, wanted)
    fetched = zip(wanted, rows, urls, strict=True)
    body: dict[str, Any] = {"offset_into_first_range": span.offset % CHUNK, "terms": rows}
    if version == ["v2"]:
        body["xorbs"] = {row["hash"]: [_fetch_v2(term, url)] for term, row, url in fetched}
    else:
        body["fetch_info"] = {row["hash"]: [_fetch_v1(term, url)] for term, row, url in fetched}
    return json_response(body)


def block(request: HubRequest) -> Response:
    """A part of a virtual xorb. If the file has changed, the response is a 403; then the client
    requests the reconstruction again."""
    commit_hash, etag, number, *path = request.params
    stored = request.snapshot(commit_hash).find(check_path("/".join(path)))
    request.asked.paths.add(stored.file.path)
    if stored.file.etag != etag:
        raise ForbiddenError("The file has changed. Request the reconstruction again.")
    if not _BLOCK.fullmatch(number):
        raise RequestError(f"{number[:80]!r} is not a block number.")
    try:
        xorb = Xorb(stored.file.size, int(number))
    except ValueError as exc:
        raise NotOfferedError from exc
    return xorb_response(stored, xorb, request.file_request)


def _row(xet_hash: str, term: Term) -> dict[str, Any]:
    return {
        "hash": term.xorb_hash(xet_hash),
        "unpacked_length": term.unpacked_length,
        "range": {"start": term.start, "end": term.end},
    }


def _fetch_v2(term: Term, url: str) -> dict[str, Any]:
    chunks = {"start": term.start, "end": term.end}
    return {"url": url, "ranges": [{"chunks": chunks, "bytes": _bytes(term)}]}


def _fetch_v1(term: Term, url: str) -> dict[str, Any]:
    chunks = {"start": term.start, "end": term.end}
    return {"range": chunks, "url": url, "url_range": _bytes(term)}


def _bytes(term: Term) -> dict[str, int]:
    return {"start": term.bytes_start, "end": term.bytes_end}


def _urls(
    request: HubRequest, snapshot: Snapshot, stored: StoredFile, wanted: list[Term]
) -> list[str]:
    """The URL of the block of each term. It contains the path of the file, so that no search for
    the hash is needed, and the etag, so that a changed file is detected."""
    signer, base = request.context.proxy.signer, cas_path(snapshot.repo, snapshot.commit_hash)
    expires = signer.expiry()
    place, name = f"{base}/blocks/{stored.file.etag}", quote(stored.file.path)
    paths = [f"{place}/{term.block}/{name}" for term in wanted]
    return [f"{request.base_url}{path}{signer.query(path, expires)}" for path in paths]


def _last_byte(asked: str) -> int:
    """The last byte of the file that is asked for, as far as the header tells."""
    match = _RANGE_END.fullmatch(asked)
    return int(match[1]) if match else 0


def telemetry(_: HubRequest) -> Response:
    """hf_xet sends it after each transfer, to the root of the host that the CAS address names,
    and waits for up to two seconds."""
    return json_response({})
