"""A package index of the wheels that are here, as uv and pip read it (PEP 503, 658, 691)."""

from __future__ import annotations

import hashlib
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from packaging.utils import canonicalize_name
from starlette.responses import Response

from mirror.core.errors import NotOfferedError
from mirror.core.source import LocalFile
from mirror.core.tree import lfs_file
from mirror.openllm.wheel_metadata import metadata
from mirror.web.api import json_response
from mirror.web.file_response import blob_response, body_response

if TYPE_CHECKING:
    from mirror.openllm.served_files import Wheel
    from mirror.web.request import HubRequest

_JSON = "application/vnd.pypi.simple.v1+json"
_META = {"api-version": "1.1"}
_METADATA = ".metadata"
_HAS_METADATA = ' data-core-metadata="true"'


def index(request: HubRequest) -> Response:
    names = request.context.openllm_files.projects()
    if _wants_json(request):
        return _json({"meta": _META, "projects": [{"name": name} for name in names]})
    return _html([f'<a href="{name}/">{name}</a>' for name in names])


def project(request: HubRequest) -> Response:
    wheels = request.context.openllm_files.wheels(request.params[0])
    if _wants_json(request):
        rows = [_row(request, wheel) for wheel in wheels]
        versions = sorted({wheel.filename.split("-")[1] for wheel in wheels})
        name = canonicalize_name(request.params[0])
        return _json({"meta": _META, "name": name, "versions": versions, "files": rows})
    return _html([_anchor(request, wheel) for wheel in wheels])


def wheel(request: HubRequest) -> Response:
    """A wheel, or its metadata alone (PEP 658)."""
    filename = request.params[0]
    path = request.context.openllm_files.wheel(filename.removesuffix(_METADATA))
    if filename.endswith(_METADATA):
        body = metadata(path)
        if not body:
            raise NotOfferedError(f"{filename[:200]!r} is not here: the wheel has no metadata.")
        headers = {"content-type": "text/plain; charset=utf-8", "etag": f'"{_sha256(body)}"'}
        return body_response(body, headers, request.file_request)
    found = path.stat()
    stored = LocalFile(lfs_file(filename, found.st_size, 64 * "0"), str(path), found.st_mtime_ns)
    etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    return blob_response(
        stored, {"content-type": "application/octet-stream", "etag": etag}, request.file_request
    )


def constraints(request: HubRequest) -> Response:
    return Response(
        request.context.openllm_files.constraints(request.params[0]), media_type="text/plain"
    )


def _wants_json(request: HubRequest) -> bool:
    return _JSON in request.headers.get("accept", "")


def _row(request: HubRequest, wheel: Wheel) -> dict[str, Any]:
    row: dict[str, Any] = {
        "filename": wheel.filename,
        "url": _url(request, wheel),
        "hashes": {"sha256": wheel.sha256},
        "size": wheel.size,
        "core-metadata": wheel.has_metadata,
    }
    return row | ({"requires-python": wheel.requires_python} if wheel.requires_python else {})


def _anchor(request: HubRequest, wheel: Wheel) -> str:
    needs = f' data-requires-python="{escape(wheel.requires_python)}"'
    return (
        f'<a href="{_url(request, wheel)}#sha256={wheel.sha256}"'
        f"{_HAS_METADATA if wheel.has_metadata else ''}{needs if wheel.requires_python else ''}>"
        f"{escape(wheel.filename)}</a>"
    )


def _url(request: HubRequest, wheel: Wheel) -> str:
    return f"{request.base_url}/-/wheels/{quote(wheel.filename)}"


def _json(body: Any) -> Response:
    answer = json_response(body)
    answer.headers["content-type"] = _JSON
    return answer


def _html(links: list[str]) -> Response:
    page = "<!DOCTYPE html>\n<title>hubmirror</title>\n" + "<br>\n".join(links) + "\n"
    return Response(page, media_type="text/html")


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
