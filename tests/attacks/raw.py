"""Bytes on a connection, and the responses that come back, read by the letter of RFC 9112."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [^\r\n]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)")


@dataclass(frozen=True)
class Answer:
    """One response; `headers` by lower-case name."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


@dataclass(frozen=True)
class Said:
    """What came on a connection: whole responses, what is left behind them, and whether the server
    closed it."""

    answers: list[Answer]
    rest: bytes
    closed: bool


def connect(url: str, timeout: float) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=timeout)


def exchange(
    url: str, *pieces: bytes, quiet: float = 0.4, heads: int = 0, pause: float = 0
) -> Said:
    """Send the pieces, with a `pause` before each, and read until the server closes the
    connection or says nothing for `quiet` seconds. The first `heads` requests are HEAD."""
    came, closed = b"", False
    with connect(url, 5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                time.sleep(pause)
                connection.sendall(piece)
            connection.settimeout(quiet)
            while chunk := connection.recv(65536):
                came += chunk
            closed = True
        except TimeoutError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            closed = True
    return read(came, closed=closed, heads=heads)


def read(came: bytes, *, closed: bool, heads: int = 0) -> Said:
    """Raises ValueError for what is no response."""
    answers: list[Answer] = []
    while came:
        head, end, rest = came.partition(b"\r\n\r\n")
        if not end:
            break
        first, *lines = head.split(b"\r\n")
        status, fields = _STATUS.fullmatch(first), [_FIELD.fullmatch(line) for line in lines]
        if status is None or not all(fields):
            raise ValueError(f"no response: {head[:200]!r}")
        headers = {field[1].lower(): field[2] for field in fields if field}
        if int(status[1]) == 100:
            came = rest
            continue
        has_no_body = len(answers) < heads or status[1] in (b"204", b"304")
        body = b"" if has_no_body else _body(headers, rest, closed=closed)
        if body is None:
            break
        answers.append(Answer(int(status[1]), headers, body))
        came = rest[_length(headers, rest, body) if not has_no_body else 0 :]
    return Said(answers, came, closed)


def _body(headers: dict[bytes, bytes], rest: bytes, *, closed: bool) -> bytes | None:
    """The body; None where it has not come in full."""
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        return _chunks(rest)[0]
    if b"content-length" in headers:
        length = int(headers[b"content-length"])
        return rest[:length] if len(rest) >= length else None
    return rest if closed else None


def _length(headers: dict[bytes, bytes], rest: bytes, body: bytes) -> int:
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        return _chunks(rest)[1]
    return len(body)


def _chunks(rest: bytes) -> tuple[bytes | None, int]:
    body, at = b"", 0
    while True:
        line, end, _ = rest[at:].partition(b"\r\n")
        if not end:
            return None, 0
        size = int(line.partition(b";")[0], 16)
        at += len(line) + 2
        if len(rest) < at + size + 2:
            return None, 0
        body += rest[at : at + size]
        at += size + 2
        if size == 0:
            return body, at
