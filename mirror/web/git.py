"""Git's smart HTTP, for reading: `git upload-pack` itself speaks, and we carry what it says
(gitprotocol-http; OpenLLM clones with `--depth=1 -b BRANCH`)."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import os
import shutil
import zlib
from typing import TYPE_CHECKING

import anyio
from starlette.responses import Response

from mirror.errors import NotOfferedError, ReadOnlyError, RequestError, UnavailableError
from mirror.web.blob import until_disconnect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.abc import Process
    from starlette.types import Message, Receive, Scope, Send

    from mirror.web.call import Call

log = logging.getLogger("hubmirror")

_SETTINGS = {
    "safe.directory": "*",  # the folder may belong to another user
    "uploadpack.allowFilter": "true",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
}
_MOST_WANTS = 8 * 1024 * 1024
_MOST_COMPLAINTS = 1000
_AT_ONCE = anyio.Semaphore(8)
_REFS = b"001e# service=git-upload-pack\n0000"


def refs(call: Call) -> Response:
    """`info/refs?service=git-upload-pack`. A push is refused, dumb HTTP is not spoken."""
    service = call.query.get("service", "")
    if service == "git-receive-pack":
        raise ReadOnlyError
    folder = call.hub.shelf.git(*call.target.rest)
    if service != "git-upload-pack":
        raise NotOfferedError("This mirror speaks git's smart HTTP alone: use a newer git.")
    protocol = call.headers.get("git-protocol", "")
    start = b"" if "version=2" in protocol else _REFS
    command = _upload_pack("--advertise-refs", str(folder))
    return GitResponse(command, protocol, b"", "advertisement", start)


def upload_pack(call: Call) -> Response:
    """What a clone or a fetch wants."""
    folder = call.hub.shelf.git(*call.target.rest)
    body = call.body
    if call.headers.get("content-encoding") == "gzip":
        body = _unzip(body)
    return GitResponse(
        _upload_pack(str(folder)), call.headers.get("git-protocol", ""), body, "result"
    )


def receive_pack(_: Call) -> Response:
    raise ReadOnlyError


def _unzip(body: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            plain = file.read(_MOST_WANTS + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise RequestError("The body is not gzip, as its header says.") from exc
    if len(plain) > _MOST_WANTS:
        raise RequestError(f"The body is longer than {_MOST_WANTS} bytes.")
    return plain


def _upload_pack(*words: str) -> list[str]:
    if shutil.which("git") is None:
        raise UnavailableError("git is not installed on the mirror. Ask its operator for it.")
    return ["git", "upload-pack", "--strict", "--stateless-rpc", *words]


class GitResponse(Response):
    """What a git process says, as it says it."""

    def __init__(
        self, command: Sequence[str], protocol: str, said: bytes, kind: str, start: bytes = b""
    ) -> None:
        headers = {
            "content-type": f"application/x-git-upload-pack-{kind}",
            "cache-control": "no-cache",
        }
        super().__init__(status_code=200, headers=headers)
        del self.headers["content-length"]
        self._command = command
        self._said = said
        self._start = start
        pairs = list(_SETTINGS.items())
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_PROTOCOL": protocol if protocol.isprintable() else "",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_COUNT": str(len(pairs)),
            **{f"GIT_CONFIG_KEY_{number}": key for number, (key, _) in enumerate(pairs)},
            **{f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in enumerate(pairs)},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with (
            _AT_ONCE,
            await anyio.open_process(self._command, env=self._environment) as process,
            anyio.create_task_group() as watch,
        ):
            watch.start_soon(until_disconnect, receive, watch.cancel_scope)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_say, process, self._said)
                tasks.start_soon(_log_complaints, process)
                await self._carry(process, send)
            watch.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _carry(self, process: Process, send: Send) -> None:
        """Send what git says."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if self._start:
            await send(_body(self._start))
        assert process.stdout is not None  # noqa: S101
        async for chunk in process.stdout:
            await send(_body(chunk))


async def _say(process: Process, said: bytes) -> None:
    """Hand the client's words to git, which may have heard enough before the end."""
    assert process.stdin is not None  # noqa: S101
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.send(said)
        await process.stdin.aclose()


async def _log_complaints(process: Process) -> None:
    """Write down what git says of a client's words, which it quotes: on one line, and the first
    of them alone."""
    assert process.stderr is not None  # noqa: S101
    said = b""
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for chunk in process.stderr:
            said += chunk[: _MOST_COMPLAINTS - len(said)]
    if said:
        log.warning("git upload-pack: %r", said.decode(errors="replace"))


def _body(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


ANSWERS: dict[str, Callable[[Call], Response]] = {
    "git-refs": refs,
    "git-upload-pack": upload_pack,
    "git-receive-pack": receive_pack,
}
