"""Reads parts of an upstream file, by Xet if upstream offers it, else by HTTP ranges."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session, hf_raise_for_status
from huggingface_hub.utils._xet import (
    get_xet_session,
    refresh_xet_connection_info,
    xet_headers_without_auth,
)

from mirror.core.errors import CorruptBlobError, UpstreamError
from mirror.sync.upstream import is_same_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub.utils._xet import XetFileData

    from mirror.core.tree import RepoFile
    from mirror.sync.upstream import Head, Location, Upstream

_EXPIRED = (401, 403, 404, 410)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_PIECE = 256 * 1024


class RangeReader:
    """The bytes of one file of a commit, from upstream. Methods block, and are thread-safe."""

    def __init__(self, upstream: Upstream, head: Head, file: RepoFile) -> None:
        self._upstream = upstream
        self._head = head
        self._file = file
        self._location: Location | None = None
        self._lock = threading.Lock()

    def stream(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end` (exclusive), in pieces.

        It can end early if the connection ends early. Raises UpstreamError, CorruptBlobError and
        the exceptions of the client, which `Upstream.error_of` describes.
        """
        location = self._locate()
        if location.xet is not None:
            yield from _stream_xet(location.xet, location.xet_headers, self._file, start, end)
            return
        try:
            yield from self._stream_http(location, start, end)
        except HfHubHTTPError as exc:
            if exc.response.status_code in _EXPIRED:
                with self._lock:  # the next call asks for a new location
                    self._location = None
            raise

    def _locate(self) -> Location:
        with self._lock:
            if self._location is None:
                found = self._upstream.locate(self._head, self._file)
                _refuse_private_host(self._upstream.endpoint, found.url)
                self._location = found
            return self._location

    def _stream_http(self, location: Location, start: int, end: int) -> Iterator[bytes]:
        headers = {
            **location.headers,
            "range": f"bytes={start}-{end - 1}",
            "accept-encoding": "identity",
        }
        with get_session().stream(
            "GET", location.url, headers=headers, follow_redirects=False
        ) as answer:
            if answer.status_code >= 400:
                bare = httpx2.Response(
                    answer.status_code, headers=answer.headers, request=answer.request
                )
                hf_raise_for_status(bare)
            self._check(answer, start)
            left = end - start
            for piece in answer.iter_raw(_PIECE):
                if len(piece) >= left:
                    yield piece[:left]
                    return
                left -= len(piece)
                yield piece

    def _check(self, answer: httpx2.Response, start: int) -> None:
        """Raises UpstreamError if the response is not this part of this file."""
        size, path = self._file.size, self._file.path
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise CorruptBlobError(path, "upstream sends it with a content encoding")
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if answer.status_code == 206 and found:
            first, total = int(found[1]), int(found[3])
        elif answer.status_code == 200 and start == 0:
            first, total = 0, int(answer.headers.get("content-length", size))
        else:
            raise UpstreamError(
                f"{self._upstream.endpoint} answers the range of a file with status "
                f"{answer.status_code}. Use another upstream."
            )
        if (first, total) != (start, size):
            raise CorruptBlobError(
                path, f"upstream sends byte {first} of {total} where byte {start} of {size} was "
                "requested"
            )  # fmt: skip


def _stream_xet(
    xet: XetFileData, headers: dict[str, str], file: RepoFile, start: int, end: int
) -> Iterator[bytes]:
    """Like `huggingface_hub.file_download.xet_get`, for a part of the file."""
    import hf_xet  # noqa: PLC0415  # it takes time and memory, and is not always needed

    connection = refresh_xet_connection_info(file_data=xet, headers=headers)
    session: Any = get_xet_session()  # type: ignore[no-untyped-call]
    group = session.new_download_stream_group(
        endpoint=connection.endpoint,
        token=connection.access_token,
        token_expiry_unix_secs=connection.expiration_unix_epoch,
        token_refresh_url=xet.refresh_route,
        token_refresh_headers=headers,
        custom_headers=xet_headers_without_auth(headers),
    )
    with group:
        stream = group.download_stream(
            hf_xet.XetFileInfo(xet.file_hash, file.size), start=start, end=end
        )
        try:
            yield from stream
        finally:
            stream.cancel()


def _refuse_private_host(endpoint: str, url: str) -> None:
    """Raises UpstreamError if a public upstream redirects to an address of a private network: a
    hub must not be able to read from servers of this site."""
    if is_same_host(endpoint, url):
        return
    is_private = any(map(_is_private, _addresses(urlsplit(url).hostname or "")))
    if is_private and not any(map(_is_private, _addresses(urlsplit(endpoint).hostname or ""))):
        raise UpstreamError(
            f"{endpoint} redirects a file to {urlsplit(url).hostname}, which has an address of a "
            "private network. The file was not fetched. Use another upstream."
        )


def _addresses(host: str) -> list[str]:
    """The addresses of a host; empty if this host cannot resolve it, as behind a proxy."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return []


def _is_private(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address.partition("%")[0]).is_global
    except ValueError:
        return False
