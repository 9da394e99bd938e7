"""The one place that touches uvicorn's private parts.

`Protocol` bounds the head of a request, and offers the ASGI extension `http.response.zerocopysend`:
parts of a file go from the page cache to the socket by `os.sendfile`, on asyncio and on uvloop
(whose `loop.sendfile` is not implemented), without a byte in Python. The message has the open
`file`, the `offset` at which the first part begins, and `parts`: pairs of some bytes to send, and
of how many bytes of the file follow them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from collections.abc import Mapping

ZERO_COPY = "http.response.zerocopysend"
MOST_HEAD = 64 * 1024
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
# Bytes that all downloads together may send in one turn of the loop, which small requests wait for.
_TURN = 20 * 1024 * 1024
_LEAST_STEP, _MOST_STEP = 128 * 1024, 2 * 1024 * 1024
_COLD_STEP = 1024 * 1024
_STALL = 300.0  # seconds without a byte taken by the client
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.EBADF})

log = logging.getLogger("hubmirror")
_cold_reads = ThreadPoolExecutor(16, "cold-reads")


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with both.

    llhttp itself bounds nothing: a client could send one header for ever.
    """

    _head: int | None = 0
    """Bytes that came since the head of a request began; None while a body is read."""

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is None or self.transport.is_closing():
            return
        if self._head > MOST_HEAD:
            self.transport.write(_REFUSAL)
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete:
            self._await_request()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def _await_request(self) -> None:
        """Close the connection if no request comes; uvicorn waits for ever for the first one."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.scheme == "http":
            self.scope["extensions"] = {ZERO_COPY: {}}

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()
        cycle = self.cycle
        if "send" not in cycle.__dict__:
            cycle.send = partial(self._send, cycle)  # type: ignore[method-assign]

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()

    async def _send(self, cycle: RequestResponseCycle, message: Any) -> None:
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

    async def _flush(self, cycle: RequestResponseCycle) -> None:
        """Wait until what was written before has gone to the socket."""
        self.transport.set_write_buffer_limits(high=0)
        try:
            await cycle.flow.drain()
        finally:
            self.transport.set_write_buffer_limits()


class Sending:
    """Parts of a file on their way to a socket.

    It works from the event loop's own callback for a writable socket, one step each time, so that
    thousands of downloads take turns with all other requests. Pages that are not in memory are
    sent from a thread, so that a cold disk does not stop the loop.
    """

    _running: ClassVar[int] = 0

    def __init__(self, client: socket.socket, message: Mapping[str, Any]) -> None:
        self._file = message["file"].fileno()
        self._offset = message["offset"]
        self._parts = list(reversed(message["parts"]))
        self._last = self._offset + sum(count for _, count in self._parts) - 1
        self._loop = asyncio.get_running_loop()
        # The transport does not share its own.
        copy = os.dup(client.fileno())
        self._socket = socket.socket(client.family, client.type, client.proto, copy)
        self._done: asyncio.Future[OSError | None] = self._loop.create_future()
        self._watch: asyncio.TimerHandle | None = None
        self._cold: asyncio.Future[None] | None = None
        self._probe = [bytearray(1)]
        self.sent = 0

    async def done(self) -> OSError | None:
        """Send all; the error that ended it early, if one did."""
        Sending._running += 1
        self._loop.add_writer(self._socket, self._step)
        self._watch = self._loop.call_later(_STALL, self._check, self.sent)
        try:
            return await self._done
        finally:
            Sending._running -= 1
            self._loop.remove_writer(self._socket)
            self._watch.cancel()
            if self._cold is not None:
                await asyncio.wait([self._cold])
            self._socket.close()

    def _step(self) -> None:
        most = min(_MOST_STEP, max(_LEAST_STEP, _TURN // Sending._running))
        if not self._is_warm(most):
            self._send_cold()
            return
        try:
            self._send(most)
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(exc)
        else:
            self._go_on()

    def _is_warm(self, most: int) -> bool:
        """Whether what a step sends is in the page cache, as far as its two ends tell: the first
        page may be there since the step before ended in it."""
        try:
            for offset in (self._offset, min(self._offset + most - 1, self._last)):
                os.preadv(self._file, self._probe, offset, os.RWF_NOWAIT)
        except OSError:  # it is not, or the file system does not tell
            return False
        return True

    def _send_cold(self) -> None:
        """Send from a thread, and watch the socket again afterwards."""
        self._loop.remove_writer(self._socket)
        self._cold = self._loop.run_in_executor(_cold_reads, self._send, _COLD_STEP)
        self._cold.add_done_callback(self._after_cold)

    def _after_cold(self, cold: asyncio.Future[None]) -> None:
        self._cold = None
        if self._done.done():
            return
        self._loop.add_writer(self._socket, self._step)
        try:
            cold.result()
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(exc)
        else:
            self._go_on()

    def _send(self, most: int) -> None:
        """Send up to `most` bytes, or as many as the socket takes."""
        while most > 0 and self._parts:
            head, left = self._parts.pop()
            count = 0
            try:
                if head:
                    count = self._socket.send(head, socket.MSG_MORE)
                    head = head[count:]
                elif left:
                    fd = self._socket.fileno()
                    count = os.sendfile(fd, self._file, self._offset, min(most, left))
                    if count == 0:
                        raise OSError(errno.EIO, "it became shorter while it was sent")
                    self._offset += count
                    left -= count
            finally:
                if head or left:
                    self._parts.append((head, left))
            self.sent += count
            most -= count

    def _go_on(self) -> None:
        if not self._parts:
            self._end(None)

    def _end(self, cause: OSError | None) -> None:
        self._loop.remove_writer(self._socket)
        if not self._done.done():
            self._done.set_result(cause)

    def _check(self, before: int) -> None:
        """End a download whose client took nothing for a long time."""
        self._watch = self._loop.call_later(_STALL, self._check, self.sent)
        if self.sent == before:
            self._end(OSError(errno.ETIMEDOUT, "the client took nothing"))
