"""Git's smart HTTP protocol, read-only: the server runs `git upload-pack` and sends its output
(gitprotocol-http; OpenLLM clones with `--depth=1 -b BRANCH`).

The output of git goes to an unnamed temporary file, and is sent after git has ended. So a client
that reads slowly, or not at all, does not keep a git process running.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import os
import re
import shutil
import signal
import tempfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import anyio
from starlette.responses import Response

from mirror.core.blob import LocalBlob
from mirror.core.errors import (
    HubmirrorError,
    NotOfferedError,
    ReadOnlyError,
    RequestError,
    UnavailableError,
)
from mirror.web.errors import error_response
from mirror.web.file_response import CHUNK, BlobResponse, FileSegments, until_disconnect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from anyio.abc import Process
    from starlette.types import Receive, Scope, Send

    from mirror.web.file_response import FileRequest
    from mirror.web.request import HubRequest

log = logging.getLogger("hubmirror")

_SETTINGS = {
    "safe.directory": "*",  # the folder may belong to another user
    "uploadpack.allowFilter": "true",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
}
_MAX_WANTS = 1024 * 1024
_MAX_COMPLAINTS = 1000
_SLOTS = anyio.Semaphore(8)
_TIMEOUT_S = 30.0  # seconds that a client waits for its turn
_DEADLINE = 120.0  # seconds that git may take
_MAX_SPOOLED = 8 * 1024 * 1024 * 1024
_BUSY = "The mirror is busy with other clients of git. Try again in a moment."
_REFS = b"001e# service=git-upload-pack\n0000"
# The error messages of git that are caused by the request and not by the repository.
_NOT_UNDERSTOOD = re.compile(
    r"protocol error|hung up|invalid command|bad line|expected|unexpected|unknown|unrecognized|"
    r"not our ref|object format|invalid (?:shallow|deepen|filter)|deepen",
    re.IGNORECASE,
)
_PATH = re.compile(r"(?<![\w.])/[^\s'\":]+")


def refs(request: HubRequest) -> Response:
    return advertise(request, lambda: _view(request))


def advertise(request: HubRequest, find: Callable[[], Path]) -> Response:
    """`info/refs?service=git-upload-pack` of the repository that `find` returns. A push is refused;
    dumb HTTP is not supported."""
    service = request.query.get("service", "")
    if service == "git-receive-pack":
        raise ReadOnlyError
    view = find()
    if service != "git-upload-pack":
        raise NotOfferedError("This mirror speaks git's smart HTTP alone: use a newer git.")
    protocol = request.headers.get("git-protocol", "")
    start = b"" if "version=2" in protocol else _REFS
    command = _upload_pack("--advertise-refs", str(view))
    return GitResponse(Run(command, protocol, b"", view.parent), "advertisement", start)


def upload_pack(request: HubRequest) -> Response:
    return send_objects(request, lambda: _view(request))


def send_objects(request: HubRequest, find: Callable[[], Path]) -> Response:
    """The objects that a clone or a fetch requests, of the repository that `find` returns."""
    view = find()
    body = said(request)
    protocol = request.headers.get("git-protocol", "")
    return GitResponse(Run(_upload_pack(str(view)), protocol, body, view.parent), "result")


def said(request: HubRequest) -> bytes:
    """The body of a request of git. Raises RequestError."""
    body = request.body
    if len(body) > _MAX_WANTS:
        raise RequestError(f"The body is longer than {_MAX_WANTS} bytes.")
    return _unzip(body) if request.headers.get("content-encoding") == "gzip" else body


def receive_pack(_: HubRequest) -> Response:
    raise ReadOnlyError


def _view(request: HubRequest) -> Path:
    return request.context.openllm_files.git(request.context.state.folder / "git", *request.params)


def _unzip(body: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            plain = file.read(_MAX_WANTS + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise RequestError("The body is not gzip, as its header says.") from exc
    if len(plain) > _MAX_WANTS:
        raise RequestError(f"The body is longer than {_MAX_WANTS} bytes.")
    return plain


def _upload_pack(*words: str) -> list[str]:
    if shutil.which("git") is None:
        raise UnavailableError("git is not installed on the mirror. Ask its operator for it.")
    return ["git", "upload-pack", "--strict", "--stateless-rpc", *words]


def _environment(protocol: str) -> dict[str, str]:
    """The environment of git: no configuration of the operator is read, and no other repository is
    used."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_PROTOCOL": protocol if protocol.isprintable() else "",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
        **{f"GIT_CONFIG_KEY_{number}": key for number, key in enumerate(_SETTINGS)},
        **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(_SETTINGS.values())},
    }


@dataclass(frozen=True, slots=True)
class Run:
    """One run of git: its command, the version of the protocol, what a client said, and the folder
    whose disk takes what git says."""

    command: Sequence[str]
    protocol: str
    said: bytes
    folder: Path

    async def into(self, output: IO[bytes]) -> None:
        """Write what git says to a file. Raises UnavailableError, and RequestError where git
        refuses the client's words without an answer."""
        with (
            tempfile.TemporaryFile(dir=self.folder) as said,
            tempfile.TemporaryFile(dir=self.folder) as complaints,
        ):
            said.write(self.said)
            said.seek(0)
            status = await self._status(said, output, complaints)
            complaints.seek(0)
            told = complaints.read(_MAX_COMPLAINTS).decode(errors="replace")
        if status and told:
            log.warning("git upload-pack: %r", told)
        if status and not os.fstat(output.fileno()).st_size:
            raise _failure(told)

    async def _status(self, said: IO[bytes], output: IO[bytes], complaints: IO[bytes]) -> int:
        async with _turn():
            process = await anyio.open_process(
                self.command,
                stdin=said,
                stdout=output,
                stderr=complaints,
                env=_environment(self.protocol),
                start_new_session=True,
            )
            try:
                with anyio.fail_after(_DEADLINE):
                    return await process.wait()
            except TimeoutError:
                raise UnavailableError(
                    f"git took longer than {_DEADLINE:.0f} seconds on the mirror. Try again, or "
                    "ask for less, with --depth=1."
                ) from None
            finally:
                await _end(process)


@contextlib.asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    """Limit the number of git processes. Raises UnavailableError if no slot gets free in time."""
    try:
        with anyio.fail_after(_TIMEOUT_S):
            await _SLOTS.acquire()
    except TimeoutError:
        raise UnavailableError(_BUSY) from None
    try:
        yield
    finally:
        _SLOTS.release()


async def _end(process: Process) -> None:
    """Kill git and its child processes, and wait until git has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with anyio.CancelScope(shield=True):
        await process.wait()


def _failure(told: str) -> HubmirrorError:
    """What git's complaint is to a client, without a path of the mirror."""
    lines = [line for line in told.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("fatal: ")]
    line = _PATH.sub(
        "(a path)", (fatal or lines or ["it ended at once"])[0].removeprefix("fatal: ")
    )
    if _NOT_UNDERSTOOD.search(line):
        return RequestError(f"git does not understand the request: {line}.")
    return UnavailableError(
        f"git cannot read the repository: {line}. Ask the mirror's operator to bring it again."
    )


class GitResponse(Response):
    """A response with the output of git, which is sent after git has ended."""

    def __init__(self, run: Run, kind: str, start: bytes = b"") -> None:
        headers = {
            "content-type": f"application/x-git-upload-pack-{kind}",
            "cache-control": "no-cache",
        }
        super().__init__(status_code=200, headers=headers)
        self._run = run
        self._start = start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with tempfile.TemporaryFile(dir=self._run.folder) as output:
                answer = await self._answer(scope, receive, output)
                if answer is not None:
                    with _spool.of(output.fileno()):
                        await answer(scope, receive, send)
        except OSError as exc:
            log.warning("git upload-pack was not run: %s", exc.strerror)
            answer = error_response(UnavailableError("The mirror cannot run git now. Try again."))
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, output: IO[bytes]) -> Response | None:
        """None where the client has gone; git's own clients never close one half."""
        answer = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_disconnect, receive, tasks.cancel_scope, scope["state"])
            try:
                await self._run.into(output)
                answer = self._of(output.fileno())
            except HubmirrorError as exc:
                answer = error_response(exc)
            tasks.cancel_scope.cancel()
        return answer

    def _of(self, descriptor: int) -> Response:
        """The answer with the bytes of an open file."""
        size = os.fstat(descriptor).st_size
        headers = {**self.headers, "content-length": str(len(self._start) + size)}
        if size <= CHUNK:
            return Response(self._start + os.pread(descriptor, size, 0), 200, headers)
        if not _spool.has_room(size):
            raise UnavailableError(_BUSY)
        return BlobResponse(
            LocalBlob(os.dup(descriptor), size),
            FileSegments(0, [(self._start, size)]),
            200,
            headers,
            _never,
        )


class _Spool:
    """Counts the bytes of responses on disk that clients have not read yet."""

    def __init__(self) -> None:
        self._bytes = 0

    def has_room(self, size: int) -> bool:
        return self._bytes + size <= _MAX_SPOOLED or not self._bytes

    @contextlib.contextmanager
    def of(self, descriptor: int) -> Iterator[None]:
        size = os.fstat(descriptor).st_size
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size


_spool = _Spool()


def _never(_: FileRequest) -> Response:
    """No other request is answered from the same file."""
    raise NotOfferedError
