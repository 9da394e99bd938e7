"""Responses with a file, or with one range of it."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
from aiofiles.base import wrap
from starlette.responses import Response

from mirror.core.errors import BlobChangedError, UpstreamPendingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from starlette.types import Message, Receive, Scope, Send

    from mirror.core.blob import Blob
    from mirror.core.source import StoredFile
    from mirror.web.xorb import Segment, Xorb

ZERO_COPY = "http.response.zerocopysend"
"""The ASGI extension, and its message type, for a server that sends parts of an open blob."""

HALF_CLOSED = "half_closed"
"""The key in the state of a request: the client has closed its sending side, and may be gone."""

CHUNK = 256 * 1024
READY_POLL_S = 0.02
"""The seconds between two looks at whether the next bytes of a blob have arrived."""

_WINDOW = 1024 * 1024
_MAX_DIGITS = 20
_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """`count` bytes of a file from `offset`."""

    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class FileSegments:
    """The parts of a file to send: consecutive in the file, starting at `offset`."""

    offset: int
    parts: Sequence[Segment]


def parse_range(header: str, size: int) -> Span | None:
    """The part of the file that a Range header requests, or None for the whole file.

    Only a single byte range is supported: RFC 9110 allows a server to ignore any other range, and
    no hub client sends one. An end past the file is clamped (hf_transfer requests one byte too
    many), and `bytes=0-0` of an empty file is accepted. Raises ValueError if the range starts past
    the end.
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
    """The digits as a number. Very long numbers are replaced, because `int` rejects them."""
    return int(digits) if len(digits) < _MAX_DIGITS else 10**_MAX_DIGITS


@dataclass(frozen=True, slots=True)
class FileRequest:
    """The options of a request for a file: the Range and If-Range headers; whether it is a HEAD;
    whether a proxy in front supports X-Accel-Redirect; and whether the response is made on the
    event loop, which must not read from disk."""

    range: str | None = None
    if_range: str | None = None
    head: bool = False
    accel: bool = False
    on_loop: bool = False


def blob_response(stored: StoredFile, headers: Mapping[str, str], request: FileRequest) -> Response:
    """The response for a file: the whole file, a range, or 416. Blocks on the disk.

    Raises BlobUnreadableError if the file does not exist or has a wrong size.
    """
    size = stored.file.size
    reopen = partial(blob_response, stored, headers)
    if request.accel and not request.head and size > CHUNK and stored.local_path is not None:
        stored.check()
        accel = {"accept-ranges": "bytes", "x-accel-redirect": accel_path(stored.local_path)}
        return Response(headers={**headers, **accel})
    plan = _plan(size, headers, request)
    return _send(
        stored, plan, lambda span: FileSegments(span.offset, [(b"", span.count)]), reopen, request
    )


def xorb_response(stored: StoredFile, xorb: Xorb, request: FileRequest) -> Response:
    """The response for a virtual xorb of a file: small headers and parts of the file in turn."""
    headers = {"content-type": "application/octet-stream", "x-content-type-options": "nosniff"}
    plan = _plan(xorb.stored_size, headers, request)
    return _send(
        stored,
        plan,
        lambda span: FileSegments(*xorb.cut(span.offset, span.count)),
        partial(xorb_response, stored, xorb),
        request,
    )


def _send(
    stored: StoredFile,
    plan: tuple[int, Span, dict[str, str]],
    cut: Callable[[Span], FileSegments],
    reopen: Callable[[FileRequest], Response],
    request: FileRequest,
) -> Response:
    status, span, headers = plan
    if request.head or status == 416:
        stored.check()
        return Response(status_code=status, headers=headers)
    blob = stored.open()
    if url := blob.redirect_url():
        blob.close()
        return Response(
            status_code=302, headers={**headers, "content-length": "0", "location": url}
        )
    segments = cut(span)
    ready = _ready(stored, blob, segments)
    if ready and span.count <= CHUNK and not request.on_loop:
        with contextlib.closing(blob):
            return Response(_read(blob, segments), status, headers)
    return BlobResponse(blob, segments, status, headers, reopen)


def body_response(body: bytes, headers: Mapping[str, str], request: FileRequest) -> Response:
    """The response for a generated body, with support for ranges."""
    status, span, full = _plan(len(body), headers, request)
    return Response(body[span.offset : span.offset + span.count], status, full)


def _plan(
    size: int, headers: Mapping[str, str], request: FileRequest
) -> tuple[int, Span, dict[str, str]]:
    """The status, the part to send and the headers for a request."""
    full = {"accept-ranges": "bytes", **headers}
    is_same = request.if_range in (None, headers.get("etag"))
    range_header = request.range if is_same else None
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
    """The X-Accel-Redirect path. nginx sends the file and applies the range
    (deploy/nginx/hubmirror.conf)."""
    return quote(f"/-/files{location}")


def _ready(stored: StoredFile, blob: Blob, cut: FileSegments) -> bool:
    """Whether all bytes of the segments can be read now. Closes the blob and raises
    UpstreamPendingError before the first byte, so that a failure still has a status."""
    count = sum(count for _, count in cut.parts)
    try:
        ready = blob.ready(cut.offset)
        if count and not ready:
            raise UpstreamPendingError(stored.file.path)
    except BaseException:
        blob.close()
        raise
    return ready >= count


def _read(blob: Blob, cut: FileSegments) -> bytes:
    """All bytes of the segments."""
    body, offset = b"", cut.offset
    for head, count in cut.parts:
        read = blob.pread(offset, count)
        if len(read) != count:
            raise BlobChangedError
        body += head + read
        offset += count
    return body


class BlobResponse(Response):
    """Sends segments of an open file, closes it, and stops when the client disconnects."""

    def __init__(
        self,
        blob: Blob,
        cut: FileSegments,
        status: int,
        headers: Mapping[str, str],
        reopen: Callable[[FileRequest], Response],
    ) -> None:
        """`reopen` makes the response to another request for the same file."""
        super().__init__(status_code=status, headers=headers)
        self._blob = blob
        self._cut = cut
        self.reopen = reopen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        with contextlib.closing(self._blob):
            await send({**start, "headers": self.raw_headers})
            if ZERO_COPY in scope.get("extensions", {}) and self._blob.fileno() is not None:
                cut = {"offset": self._cut.offset, "parts": self._cut.parts}
                await send({"type": ZERO_COPY, "file": self._blob, **cut})
            else:
                await self._copy(receive, send)

    async def _copy(self, receive: Receive, send: Send) -> None:
        """Send without zero copy, if the server or the blob does not support it. A thread reads one
        window at a time."""
        is_short, offset, pread = False, self._cut.offset, wrap(self._blob.pread)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_disconnect, receive, tasks.cancel_scope)
            for parts in _windows(self._cut.parts):
                count = sum(length for _, length in parts)
                await self._until_ready(offset, count)
                with anyio.CancelScope(shield=True):  # the blob is closed afterwards
                    read = await pread(offset, count)
                if len(read) < count:
                    is_short = True
                    break
                offset += count
                await send(_body(_joined(parts, read)))
            tasks.cancel_scope.cancel()
        if is_short:
            raise BlobChangedError
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_ready(self, offset: int, count: int) -> None:
        """Wait for bytes that are still arriving. Raises BlobUnreadableError if they do not."""
        while self._blob.ready(offset) < count:  # noqa: ASYNC110  # by another process
            await anyio.sleep(READY_POLL_S)


def _windows(parts: Sequence[Segment]) -> Iterator[list[Segment]]:
    """The parts in groups of at most one MiB of the file; longer parts are divided."""
    group: list[Segment] = []
    room = _WINDOW
    for head, length in parts:
        left = length
        while left or head:
            taken = min(left, room)
            group.append((head, taken))
            head, left, room = b"", left - taken, room - taken
            if not room:
                yield group
                group, room = [], _WINDOW
    if group:
        yield group


def _joined(parts: Sequence[Segment], read: bytes) -> bytes:
    """The bytes from the file with the headers inserted."""
    if len(parts) == 1 and not parts[0][0]:
        return read
    view, at = memoryview(read), 0
    pieces: list[bytes | memoryview] = []
    for head, length in parts:
        pieces += [head, view[at : at + length]]
        at += length
    return b"".join(pieces)


def _body(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def until_disconnect(
    receive: Receive, tasks: anyio.CancelScope, state: Mapping[str, Any] | None = None
) -> None:
    """Cancel the tasks when the client disconnects, because uvicorn's `send` raises no error then.
    With the `state` of the request, a client that closes its sending side is disconnected too."""
    while (await receive())["type"] != "http.disconnect" and not (state or {}).get(HALF_CLOSED):
        pass
    tasks.cancel()
