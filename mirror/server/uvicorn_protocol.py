"""The only module that uses private parts of uvicorn.

`Protocol` bounds the head of a request, and offers the ASGI extension `http.response.zerocopysend`:
parts of a file go from the page cache to the socket by `os.sendfile`, on asyncio and on uvloop
(whose `loop.sendfile` is not implemented), without a byte in Python. The message has the `file`
(an open `Blob`), the `offset` at which the first part begins, and `parts`: pairs of some bytes to
send, and of how many bytes of the file follow them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mirror.core.errors import BlobUnreadableError
from mirror.core.files import is_in_memory
from mirror.web.file_response import HALF_CLOSED, READY_POLL_S, ZERO_COPY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_HEAD = 64 * 1024
_MAX_FRAMING = 17
"""Bytes that come for each byte of a body at most, beside a head's: chunks of one byte have six."""

_HEAD_TIMEOUT_S = 30.0
_REST_TIMEOUT_S = 30.0
"""For how long the rest of a body is read whose request was answered already."""

_FRAMING_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
_NO_UPGRADE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_HEAD_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
# Bytes that all downloads together may send in one turn of the loop, which small requests wait for.
_BYTES_PER_TURN = 20 * 1024 * 1024
_LEAST_STEP, _MAX_STEP = 128 * 1024, 2 * 1024 * 1024
_COLD_STEP = 1024 * 1024
_WINDOW = 4 * 1024 * 1024
"""Bytes for which the page cache is asked at once."""

_FILE_TIMEOUT_S = 300.0  # seconds without a byte of a file taken by the client
_SEND_TIMEOUT_S = 60.0  # the same for other answers
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.EBADF})

_MANY_DESCRIPTORS = 0.8  # of the limit

log = logging.getLogger("hubmirror")
_cold_reads = ThreadPoolExecutor(16, "cold-reads")


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with zero copy, and with bounds on what a client may send, and
    on how long it may take: llhttp and uvicorn bound nothing.

    A request is a head and a body. Each has a deadline from its first byte; the framing of a body
    (sizes and extensions of chunks, trailers) is bounded by what it frames. A client that does not
    read what it is sent is cut off.
    """

    _head: int | None = 0
    """Bytes that came since the head of a request began; None while a body is read."""

    _framing = 0
    """Bytes that came since the body began."""

    _payload = 0
    """Those of them that are the body itself."""

    _is_refused = False
    """Whether what the client sends from now on is thrown away, since its last request was wrong;
    the answers that are due are still sent."""

    _unread = 0
    """Bytes of the last answer that the client had not read when that was looked at."""

    _deadline: asyncio.TimerHandle | None = None
    """When the head that has begun, or the rest of a body that nobody reads, must be here."""

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._head is None:
            self._framing += len(data)
        else:
            self._head += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if not (self._is_refused or self.transport.is_closing()):
            self._bound_request()

    def _feed(self, data: bytes) -> None:
        """Parse. An offer to upgrade is not taken (RFC 9110, section 7.8), so that what follows is
        the next request; llhttp stops at it, and does not know where the body of such a one ends.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if any(name in _FRAMING_HEADERS for name, _ in self.headers):
                    self._refuse(_NO_UPGRADE)
                    return
                data = data[offer.args[0] :]
            except httptools.HttpParserError:
                log.warning("A request that is not HTTP came from %s.", self.client)
                self.send_400_response("Invalid HTTP request received.")
                return
            else:
                return

    def _bound_request(self) -> None:
        if self._head is None:
            if self._framing > MAX_HEAD + _MAX_FRAMING * self._payload:
                self._refuse(_HEAD_TOO_LONG)
        elif self._head > MAX_HEAD:
            self._refuse(_HEAD_TOO_LONG)
        elif self._head:
            self._start_deadline(min(_HEAD_TIMEOUT_S, self.timeout_keep_alive))
        elif self.cycle is None or self.cycle.response_complete:
            self._await_request()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that has sent all that it has to say may still read (`shutdown(SHUT_WR)`)."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle or self._head is None or self.scheme == "https":
            return None
        self.cycle.keep_alive = False
        self.cycle.scope["state"][HALF_CLOSED] = True
        self.cycle.message_event.set()
        return True

    def send_400_response(self, msg: str) -> None:
        """A request that cannot be parsed; it may follow others whose answers are due.

        uvicorn writes its refusal among them, and closes the connection before they are sent.
        """
        self._is_refused = True
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        elif self._head is None and not self.pipeline:
            # The body of the request that is being answered is broken.
            self.cycle.disconnected = not self.cycle.response_started
            self.cycle.message_event.set()
            if self.cycle.disconnected:
                super().send_400_response(msg)
            else:
                self.cycle.keep_alive = False
        else:
            self.cycle.keep_alive = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _warn_of_descriptors(transport.get_extra_info("socket").fileno())
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Also for a client that has not read the end of its last answer: as long as it reads, it
        is waited for."""
        unread = self.transport.get_write_buffer_size()
        if unread and unread != self._unread:
            self._unread, self.timeout_keep_alive_task = unread, None
            self._await_request()
        elif unread:
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _await_request(self) -> None:
        """Close the connection if no request comes; uvicorn waits for ever for the first one."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _refuse(self, answer: bytes) -> None:
        """Send a refusal, where no other answer is due, and close the connection."""
        self._is_refused = True
        is_answered = self.cycle is None or self.cycle.response_complete
        if not is_answered:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if is_answered or not (self.pipeline or self.cycle.response_started):
            self.transport.write(answer)
            self.transport.close()
        else:
            self.transport.abort()

    def _start_deadline(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.scheme == "http":
            self.scope["extensions"] = {ZERO_COPY: {}}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:  # else it is a trailer, which nobody reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head, self._framing, self._payload = None, 0, 0
        self._stop_deadline()
        super().on_headers_complete()
        cycle = self.cycle
        if "send" not in cycle.__dict__:
            cycle.send = partial(self._send, cycle)  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        self._payload += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = 0
        self._stop_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._head is None and not self.transport.is_closing():
            self._start_deadline(_REST_TIMEOUT_S)

    async def _send(self, cycle: RequestResponseCycle, message: Any) -> None:
        if cycle.flow.write_paused or self.transport.is_closing():
            await self._until_writable(cycle)
        if message["type"] != ZERO_COPY:
            await RequestResponseCycle.send(cycle, message)
            return
        await self._flush(cycle)
        if cycle.disconnected:
            return
        sending = Sending(self.transport.get_extra_info("socket"), message)
        cause = await sending.done()
        message["sent"] = sending.sent
        if cause is not None:
            if cause.errno not in _GONE:
                log.warning("A file was not sent to its end: %s.", cause.strerror)
            cycle.disconnected = True
            self.transport.abort()
            return
        cycle.expected_content_length -= sending.sent
        end = {"type": "http.response.body", "more_body": message.get("more_body", False)}
        await RequestResponseCycle.send(cycle, end)  # type: ignore[arg-type]

    async def _until_writable(self, cycle: RequestResponseCycle) -> None:
        """Wait until the client has taken what was written before; cut off one that takes
        nothing."""
        if cycle.flow.write_paused and not cycle.disconnected:
            try:
                async with asyncio.timeout(_SEND_TIMEOUT_S):
                    await cycle.flow.drain()
            except TimeoutError:
                self.transport.abort()
        if self.transport.is_closing() and not cycle.response_complete:
            cycle.disconnected = True  # uvicorn learns it later, and would write until then

    async def _flush(self, cycle: RequestResponseCycle) -> None:
        """Wait until what was written before has gone to the socket."""
        if self.transport.is_closing():  # it takes no setting any more
            cycle.disconnected = True
            return
        self.transport.set_write_buffer_limits(high=0)
        try:
            await self._until_writable(cycle)
        finally:
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()


def _warn_of_descriptors(newest: int) -> None:
    """Warn if few file descriptors are free. The system gives the lowest free number."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and newest > limit * _MANY_DESCRIPTORS:
        log.warning(
            "This process may open %d files and connections, and few of them are free. If none is "
            "free, clients wait or get 503. Raise the limit: LimitNOFILE in systemd, or ulimit -n.",
            limit,
        )


def missing_parts() -> list[str]:
    """What the installed uvicorn lacks of the parts that `Protocol` builds on."""
    protocol = (
        "_unset_keepalive_if_required", "connection_lost", "connection_made",
        "eof_received", "on_body", "on_header", "on_headers_complete", "on_message_begin",
        "on_message_complete", "on_response_complete", "send_400_response",
        "timeout_keep_alive_handler",
    )  # fmt: skip
    absent = [
        f"HttpToolsProtocol.{name}" for name in protocol if not hasattr(HttpToolsProtocol, name)
    ]
    return absent + [
        f"RequestResponseCycle.{name}"
        for name in ("receive", "run_asgi", "send")
        if not hasattr(RequestResponseCycle, name)
    ]


class Sending:
    """Parts of a file on their way to a socket.

    It works from the event loop's own callback for a writable socket, one step each time, so that
    thousands of downloads take turns with all other requests. Pages that are not in memory are
    sent from a thread, so that a cold disk does not stop the loop.
    """

    _running: ClassVar[int] = 0

    def __init__(self, client: socket.socket, message: Mapping[str, Any]) -> None:
        self._blob = message["file"]
        self._file = self._blob.fileno()
        self._offset = message["offset"]
        self._parts = list(reversed(message["parts"]))
        self._last = self._offset + sum(count for _, count in self._parts) - 1
        self._loop = asyncio.get_running_loop()
        # The transport does not share its own.
        copy = os.dup(client.fileno())
        self._socket = socket.socket(client.family, client.type, client.proto, copy)
        self._done: asyncio.Future[OSError | None] = self._loop.create_future()
        self._watch: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._cold: asyncio.Future[None] | None = None
        self._probe = [bytearray(1)]
        self._warm_end = 0
        self.sent = 0

    async def done(self) -> OSError | None:
        """Send all; the error that ended it early, if one did.

        The socket is corked, as by nginx's tcp_nopush: full segments only, so that the client is
        woken up less often.
        """
        Sending._running += 1
        self._cork(1)
        self._loop.add_writer(self._socket, self._step)
        self._watch = self._loop.call_later(_FILE_TIMEOUT_S, self._check, self.sent)
        try:
            return await self._done
        finally:
            Sending._running -= 1
            self._loop.remove_writer(self._socket)
            self._watch.cancel()
            if self._pause is not None:
                self._pause.cancel()
            self._cork(0)
            if self._cold is not None:
                await asyncio.wait([self._cold])
            self._socket.close()

    def _cork(self, is_corked: int) -> None:
        with contextlib.suppress(OSError):  # a Unix socket, or a connection that is gone
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, is_corked)

    def _step(self) -> None:
        try:
            ready = self._blob.ready(self._offset)
        except BlobUnreadableError as exc:
            self._end(OSError(errno.EIO, str(exc)))
            return
        if not ready and self._offset <= self._last:
            self._wait_until_ready()
            return
        if self._offset >= self._warm_end and not self._is_warm(ready):
            self._send_cold(ready)
            return
        most = min(_MAX_STEP, max(_LEAST_STEP, _BYTES_PER_TURN // Sending._running))
        ready = min(ready, max(0, self._warm_end - self._offset))
        self._finish_step(lambda: self._send(most, ready))

    def _wait_until_ready(self) -> None:
        """Look again in a moment whether the next bytes of the file have arrived."""
        self._loop.remove_writer(self._socket)
        self._pause = self._loop.call_later(READY_POLL_S, self._resume)

    def _resume(self) -> None:
        if not self._done.done():
            self._loop.add_writer(self._socket, self._step)

    def _is_warm(self, ready: int) -> bool:
        """Whether the next window is in the page cache, as far as its two ends tell: the first page
        may be there since the window before ended in it."""
        end = min(self._offset + min(_WINDOW, ready), self._last + 1)
        try:
            for offset in (self._offset, end - 1):
                os.preadv(self._file, self._probe, max(0, offset), os.RWF_NOWAIT)
        except OSError as exc:  # it is not, or the file system cannot say
            if exc.errno != errno.EOPNOTSUPP or not is_in_memory(os.fstat(self._file).st_dev):
                return False
        self._warm_end = end
        return True

    def _send_cold(self, ready: int) -> None:
        """Send from a thread, and watch the socket again afterwards."""
        self._loop.remove_writer(self._socket)
        self._cold = self._loop.run_in_executor(_cold_reads, self._send, _COLD_STEP, ready)
        self._cold.add_done_callback(self._after_cold)

    def _after_cold(self, cold: asyncio.Future[None]) -> None:
        self._cold = None
        if self._done.done():
            return
        self._loop.add_writer(self._socket, self._step)
        self._finish_step(cold.result)

    def _send(self, most: int, ready: int) -> None:
        """Send up to `most` bytes, of which up to `ready` are of the file, or as many as the socket
        takes."""
        while most > 0 and self._parts:
            if not ready and not self._parts[-1][0] and self._parts[-1][1]:
                return
            head, left = self._parts.pop()
            count = wanted = 0
            try:
                if head:
                    wanted = len(head)
                    count = self._socket.send(head, socket.MSG_MORE)
                    head = head[count:]
                elif left:
                    fd = self._socket.fileno()
                    wanted = min(most, left, ready)
                    count = os.sendfile(fd, self._file, self._offset, wanted)
                    if count == 0:
                        raise OSError(errno.EIO, "it became shorter while it was sent")
                    self._offset += count
                    left -= count
                    ready -= count
            finally:
                if head or left:
                    self._parts.append((head, left))
            self.sent += count
            most -= count
            if count < wanted:
                return  # the socket is full

    def _finish_step(self, send: Callable[[], None]) -> None:
        """End the download if this step was the last one, or failed."""
        try:
            send()
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(exc)
        else:
            if not self._parts:
                self._end(None)

    def _end(self, cause: OSError | None) -> None:
        self._loop.remove_writer(self._socket)
        if not self._done.done():
            self._done.set_result(cause)

    def _check(self, before: int) -> None:
        """End a download whose client took nothing for a long time."""
        self._watch = self._loop.call_later(_FILE_TIMEOUT_S, self._check, self.sent)
        if self.sent == before:
            self._end(OSError(errno.ETIMEDOUT, "the client took nothing"))
