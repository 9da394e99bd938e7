"""A package index of the wheels that are here, as uv and pip read it (PEP 503, 658, 691)."""

from __future__ import annotations

import hashlib
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from packaging.utils import canonicalize_name
from starlette.responses import Response

from mirror.core.errors import NotOfferedError
from mirror.core.source import StoredFile
from mirror.core.tree import lfs_file
from mirror.openllm.wheel_metadata import metadata
from mirror.web.api import json_response
from mirror.web.file_response import blob_response, body_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.openllm.shelf import Wheel
    from mirror.web.request import Call

_JSON = "application/vnd.pypi.simple.v1+json"
_META = {"api-version": "1.1"}
_METADATA = ".metadata"
_HAS_METADATA = ' data-core-metadata="true"'


def index(call: Call) -> Response:
    names = call.hub.shelf.projects()
    if _wants_json(call):
        return _json({"meta": _META, "projects": [{"name": name} for name in names]})
    return _html([f'<a href="{name}/">{name}</a>' for name in names])


def project(call: Call) -> Response:
    wheels = call.hub.shelf.wheels(call.target.rest[0])
    if _wants_json(call):
        rows = [_row(call, wheel) for wheel in wheels]
        versions = sorted({wheel.filename.split("-")[1] for wheel in wheels})
        name = canonicalize_name(call.target.rest[0])
        return _json({"meta": _META, "name": name, "versions": versions, "files": rows})
    return _html([_anchor(call, wheel) for wheel in wheels])


def wheel(call: Call) -> Response:
    """A wheel, or its metadata alone (PEP 658)."""
    filename = call.target.rest[0]
    path = call.hub.shelf.wheel(filename.removesuffix(_METADATA))
    if filename.endswith(_METADATA):
        body = metadata(path)
        if not body:
            raise NotOfferedError(f"{filename[:200]!r} is not here: the wheel has no metadata.")
        headers = {"content-type": "text/plain; charset=utf-8", "etag": f'"{_sha256(body)}"'}
        return body_response(body, headers, call.asked)
    found = path.stat()
    stored = StoredFile(lfs_file(filename, found.st_size, 64 * "0"), str(path), found.st_mtime_ns)
    etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    return blob_response(
        stored, {"content-type": "application/octet-stream", "etag": etag}, call.asked
    )


def constraints(call: Call) -> Response:
    return Response(call.hub.shelf.constraints(call.target.rest[0]), media_type="text/plain")


def _wants_json(call: Call) -> bool:
    return _JSON in call.headers.get("accept", "")


def _row(call: Call, wheel: Wheel) -> dict[str, Any]:
    row: dict[str, Any] = {
        "filename": wheel.filename,
        "url": _url(call, wheel),
        "hashes": {"sha256": wheel.sha256},
        "size": wheel.size,
        "core-metadata": wheel.has_metadata,
    }
    return row | ({"requires-python": wheel.requires_python} if wheel.requires_python else {})


def _anchor(call: Call, wheel: Wheel) -> str:
    needs = f' data-requires-python="{escape(wheel.requires_python)}"'
    return (
        f'<a href="{_url(call, wheel)}#sha256={wheel.sha256}"'
        f"{_HAS_METADATA if wheel.has_metadata else ''}{needs if wheel.requires_python else ''}>"
        f"{escape(wheel.filename)}</a>"
    )


def _url(call: Call, wheel: Wheel) -> str:
    return f"{call.base_url}/-/wheels/{quote(wheel.filename)}"


def _json(body: Any) -> Response:
    answer = json_response(body)
    answer.headers["content-type"] = _JSON
    return answer


def _html(links: list[str]) -> Response:
    page = "<!DOCTYPE html>\n<title>hubmirror</title>\n" + "<br>\n".join(links) + "\n"
    return Response(page, media_type="text/html")


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


ANSWERS: dict[str, Callable[[Call], Response]] = {
    "simple-index": index,
    "simple-project": project,
    "wheels": wheel,
    "constraints": constraints,
}
