"""A file, or one range of it, as an answer."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiofiles
import anyio
from starlette.responses import Response

from mirror.errors import BlobChangedError
from mirror.source import check_blob, open_blob
from mirror.web.protocol import ZERO_COPY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from mirror.source import StoredFile

CHUNK = 256 * 1024
_MOST_DIGITS = 20
_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """`count` bytes of a file from `offset`."""

    offset: int
    count: int


def parse_range(header: str, size: int) -> Span | None:
    """The part that a Range header asks for, or None to send the whole file.

    Only one range of bytes is honoured: RFC 9110 lets a server ignore any other, and no hub client
    sends one. An end past the file is clamped (hf_transfer asks for one byte too many), and so is
    `bytes=0-0` of an empty file. Raises ValueError where the range starts past the end.
    """
    match = _RANGE.fullmatch(header)
    if match is None or size == 0 or match[1] == match[2] == "":
        return None
    if match[1] == "":
        count = min(_number(match[2]), size)
        if count == 0:
            raise ValueError("an empty suffix")
        return Span(size - count, count)
    first = _number(match[1])
    last = _number(match[2]) if match[2] else size - 1
    if last < first and match[2]:
        return None
    if first >= size:
        raise ValueError("a range past the end")
    return Span(first, min(last, size - 1) - first + 1)


def _number(digits: str) -> int:
    """Python refuses to read thousands of digits; no file is that long."""
    return int(digits) if len(digits) < _MOST_DIGITS else 10**_MOST_DIGITS


@dataclass(frozen=True, slots=True)
class Asked:
    """How a file was asked for: the Range and If-Range headers, HEAD, and whether a proxy in front
    sends files that it is told to send."""

    range: str | None = None
    if_range: str | None = None
    head: bool = False
    accel: bool = False


def blob_response(stored: StoredFile, headers: Mapping[str, str], asked: Asked) -> Response:
    """The answer for a file: whole, a range, or 416. Blocks on the disk.

    Raises BlobUnreadableError where the file is not there with its right size.
    """
    size = stored.file.size
    if asked.accel and not asked.head and size > CHUNK:
        check_blob(stored)
        told = {"accept-ranges": "bytes", "x-accel-redirect": accel_path(stored.location)}
        return Response(headers={**headers, **told})
    status, span, full = _plan(size, headers, asked)
    if asked.head or status == 416:
        check_blob(stored)
        return Response(status_code=status, headers=full)
    descriptor = open_blob(stored)
    if span.count <= CHUNK:
        return Response(_read(descriptor, span), status, full)
    return BlobResponse(
        descriptor, span, status, full, again=partial(blob_response, stored, headers)
    )


def body_response(body: bytes, headers: Mapping[str, str], asked: Asked) -> Response:
    """The same for a file that lies nowhere, but is made here."""
    status, span, full = _plan(len(body), headers, asked)
    return Response(body[span.offset : span.offset + span.count], status, full)


def _plan(size: int, headers: Mapping[str, str], asked: Asked) -> tuple[int, Span, dict[str, str]]:
    """The status, the part to send and the headers, for what was asked of a file."""
    full = {"accept-ranges": "bytes", **headers}
    is_same = asked.if_range in (None, headers.get("etag"))
    range_header = asked.range if is_same else None
    try:
        span = parse_range(range_header, size) if range_header else None
    except ValueError:
        return 416, Span(0, 0), {**full, "content-range": f"bytes */{size}"}
    if range_header and size == 0:
        full["content-range"] = "bytes */0"
    if span is None:
        return 200, Span(0, size), {**full, "content-length": str(size)}
    last = span.offset + span.count - 1
    full["content-range"] = f"bytes {span.offset}-{last}/{size}"
    return 206, span, {**full, "content-length": str(span.count)}


def accel_path(location: str) -> str:
    """What nginx is told to send, and to apply the range to (deploy/nginx/hubmirror.conf)."""
    return quote(f"/-/files{location}")


def _read(descriptor: int, span: Span) -> bytes:
    try:
        body = os.pread(descriptor, span.count, span.offset)
    finally:
        os.close(descriptor)
    if len(body) != span.count:
        raise BlobChangedError
    return body


class BlobResponse(Response):
    """Sends a span of an open file, which it closes, and stops when the client has gone."""

    def __init__(
        self,
        descriptor: int,
        span: Span,
        status: int,
        headers: Mapping[str, str],
        again: Callable[[Asked], Response],
    ) -> None:
        """`again` makes the answer to another request for the same file."""
        super().__init__(status_code=status, headers=headers)
        self._descriptor = descriptor
        self._span = span
        self.again = again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        with os.fdopen(self._descriptor, "rb", buffering=0) as file:
            await send({**start, "headers": self.raw_headers})
            if ZERO_COPY in scope.get("extensions", {}):
                span = {"offset": self._span.offset, "count": self._span.count}
                await send({"type": ZERO_COPY, "file": file, **span})
            else:
                await self._copy(receive, send)

    async def _copy(self, receive: Receive, send: Send) -> None:
        """For servers without zero copy: read in a thread, a chunk at a time."""
        left, is_short = self._span.count, False
        async with (
            aiofiles.open(self._descriptor, "rb", buffering=0, closefd=False) as file,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(_until_disconnect, receive, tasks.cancel_scope)
            await file.seek(self._span.offset)
            while left and (body := await file.read(min(CHUNK, left))):
                left -= len(body)
                await send({"type": "http.response.body", "body": body, "more_body": left > 0})
            is_short = left > 0
            tasks.cancel_scope.cancel()
        if is_short:
            raise BlobChangedError


async def _until_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
