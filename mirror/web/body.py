"""Reads request bodies, with limits on their size, their time and their total memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from mirror.core.errors import BusyError, RequestError, SlowRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

_TIMEOUT_S = 30.0
_MAX_TOGETHER = 32 * 1024 * 1024


class BodyReader:
    """Reads bodies into memory, with a limit for all bodies of one process together."""

    def __init__(self, timeout_s: float = _TIMEOUT_S, max_together: int = _MAX_TOGETHER) -> None:
        """`timeout_s` is for one whole body; `max_together` is in bytes, for all bodies."""
        self._timeout_s = timeout_s
        self._free = max_together

    async def read(self, request: Request, max_bytes: int) -> bytes:
        """The whole body.

        Raises RequestError if it is longer than `max_bytes`, SlowRequestError if it does not arrive
        in time, and BusyError if the bodies of other requests use all memory for bodies.
        """
        body = bytearray()
        with self._share() as take:
            try:
                with anyio.fail_after(self._timeout_s):
                    async for chunk in request.stream():
                        body += chunk
                        if len(body) > max_bytes:
                            raise RequestError(f"The body is longer than {max_bytes} bytes.")
                        take(len(chunk))
            except TimeoutError as exc:
                raise SlowRequestError from exc
            return bytes(body)

    @contextmanager
    def _share(self) -> Iterator[Callable[[int], None]]:
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if count > self._free:
                raise BusyError
            taken += count
            self._free -= count

        try:
            yield take
        finally:
            self._free += taken
