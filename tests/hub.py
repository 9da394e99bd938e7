"""A simulator of the real hub, edited by tests as an object, with faults on request.

It is written against the hub's documentation and its clients, not against this package: caches in
tests are made by the real huggingface_hub downloading from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mirror.server.uvicorn_protocol import Protocol
from tests.servers import run_server

EVER = 1_000_000
_PIECE = 64 * 1024
_PLURALS = ("models", "datasets", "spaces", "kernels")


@dataclass
class SimulatedRepo:
    """A repository: files by commit, and commits by ref. Tags are `refs/tags/…`, and pull requests
    `refs/pr/…`; other refs are branches. `info` is told of it beside the usual. The tree claims
    `claimed_sizes` of paths instead of the true ones, and tells their `xet_hashes`. Only the tokens
    of `readers` are let in, if there are any."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    readers: set[str] | None = None
    xet_hashes: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Add a commit that holds just these files, and point the ref to it."""
        bodies = {path: _git_sha1(body) for path, body in files.items()}
        commit_hash = hashlib.sha1(repr((bodies, len(self.commits))).encode()).hexdigest()
        self.commits[commit_hash] = files
        self.refs[ref] = commit_hash
        return commit_hash

    def find(self, revision: str) -> str | None:
        for name in (revision, revision.removeprefix("refs/heads/"), f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        return revision if revision in self.commits else None


Effect = Callable[[Request, Response], Response]


@dataclass
class Fault:
    """What becomes of the next `times` answers to requests that match `where`, which is looked for
    in `METHOD /path`."""

    where: str
    effect: Effect
    times: int = 1


class HubSimulator:
    """The hub as an ASGI application. `requests` are those that came, and `sent` counts the bytes
    of each file that GETs asked for, by its path; a `fault` answers all, and of the `faults` the
    first that matches changes an answer."""

    def __init__(self) -> None:
        self.repos: dict[str, SimulatedRepo] = {}
        self.organizations: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.sent: Counter[str] = Counter()
        self.fault: Response | None = None
        self.faults: list[Fault] = []
        self.app = Starlette(routes=[Route("/{path:path}", self._answer)])

    def repo(self, repo_id: str) -> SimulatedRepo:
        """The repository `org/name`, `datasets/org/name`, …, made if need be."""
        return self.repos.setdefault(repo_id, SimulatedRepo())

    def fail(self, where: str, effect: Effect, times: int = 1) -> None:
        self.faults.append(Fault(where, effect, times))

    def count(self, where: str = "") -> int:
        """How many requests came that match."""
        return sum(re.search(where, request) is not None for request in self.requests)

    async def _answer(self, request: Request) -> Response:
        line = f"{request.method} {request.url.path}"
        self.requests.append(line)
        if self.fault is not None:
            return self.fault
        answer = self._true_answer(request)
        for fault in self.faults:
            if fault.times and re.search(fault.where, line):
                fault.times -= 1
                return fault.effect(request, answer)
        return answer

    def _true_answer(self, request: Request) -> Response:
        parts = [unquote(part) for part in request.scope["raw_path"].decode().split("/")[1:]]
        if parts[:2] == ["api", "organizations"]:
            overview = self.organizations.get(parts[2])
            return JSONResponse(overview or {"error": "Not found"}, 200 if overview else 404)
        kind, name, word, rest = _parse(parts)
        true_name = next((one for one in self.repos if one.lower() == name.lower()), None)
        if true_name is None:
            return _error("RepoNotFound", "Repository not found")
        repo = self.repos[true_name]
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if repo.readers is not None and token not in repo.readers:
            return _error("RepoNotFound", "Repository not found")
        if word in ("auth-check", "refs"):
            return JSONResponse(_refs(repo) if word == "refs" else {})
        return self._of_revision(request, true_name, kind, word, rest)

    def _of_revision(
        self, request: Request, true_name: str, kind: str, word: str, rest: list[str]
    ) -> Response:
        repo = self.repos[true_name]
        commit = repo.find(rest[0] if rest else "main")
        if commit is None:
            return _error("RevisionNotFound", "Invalid rev id")
        if kind == "file":
            path = "/".join(rest[1:])
            found = _file(request, commit, repo.commits[commit], path)
            if request.method == "GET":
                self.sent[path] += len(found.body)
            return found
        if word == "tree":
            return JSONResponse(_tree(repo, commit))
        siblings = [{"rfilename": path} for path in repo.commits[commit]]
        repo_id = re.sub("^(datasets|spaces|kernels)/", "", true_name)
        usual = {"_id": "1", "id": repo_id, "sha": commit, "siblings": siblings}
        return JSONResponse(usual | repo.info)


def _parse(parts: list[str]) -> tuple[str, str, str, list[str]]:
    """`api` or `file`, the repository, the word after it, and what follows the word."""
    kind, parts = ("api", parts[1:]) if parts[0] == "api" else ("file", parts)
    plural = parts.pop(0) if parts[0] in _PLURALS else "models"
    words = ("revision", "tree", "refs", "resolve", "auth-check")
    at = next((at for at, part in enumerate(parts) if part in words), len(parts))
    prefix = "" if plural == "models" else f"{plural}/"
    return kind, prefix + "/".join(parts[:at]), "".join(parts[at : at + 1]), parts[at + 1 :]


def _file(request: Request, commit: str, files: dict[str, bytes], path: str) -> Response:
    if path not in files:
        return _error("EntryNotFound", "Entry not found", {"x-repo-commit": commit})
    row, body = _row(path, files[path]), files[path]
    etag = row.get("lfs", row)["oid"]
    headers = {"x-repo-commit": commit, "etag": f'"{etag}"', "accept-ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not asked:
        return Response(body, headers=headers)
    start, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
    headers["content-range"] = f"bytes {start}-{last}/{len(body)}"
    return Response(body[start : last + 1], 206, headers)


def _tree(repo: SimulatedRepo, commit: str) -> list[dict[str, Any]]:
    rows = [_row(path, body) for path, body in repo.commits[commit].items()]
    for row in rows:
        row |= _claimed(row, repo.claimed_sizes)
        if row["path"] in repo.xet_hashes:
            row["xetHash"] = repo.xet_hashes[row["path"]]
    return rows


def _row(path: str, body: bytes) -> dict[str, Any]:
    if not path.endswith((".safetensors", ".bin")):
        return {"type": "file", "path": path, "size": len(body), "oid": _git_sha1(body)}
    sha256 = hashlib.sha256(body).hexdigest()
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(body)}\n"
    lfs = {"oid": sha256, "size": len(body), "pointerSize": len(text)}
    oid = _git_sha1(text.encode())
    return {"type": "file", "path": path, "size": len(body), "oid": oid, "lfs": lfs}


def _claimed(row: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    if row["path"] not in sizes:
        return {}
    size = sizes[row["path"]]
    return {"size": size} | ({"lfs": row["lfs"] | {"size": size}} if "lfs" in row else {})


def _refs(repo: SimulatedRepo) -> dict[str, Any]:
    told: dict[str, Any] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for name, commit in repo.refs.items():
        kind, ref = "branches", f"refs/heads/{name}"
        if name.startswith("refs/"):
            kind, ref = ("tags" if name.startswith("refs/tags/") else "pullRequests"), name
        short = name.removeprefix("refs/tags/")
        told[kind].append({"name": short, "ref": ref, "targetCommit": commit})
    return told


def _git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _error(code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    headers = {"x-error-code": code, "x-error-message": message, **(headers or {})}
    return JSONResponse({"error": message}, 404, headers)


def refused(status: int, **headers: str) -> Effect:
    """Another status, with no body; `retry_after="1"` gives a header of that name."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _, __: Response(status_code=status, headers=given)


def after(happens: Callable[[], object]) -> Effect:
    """The true answer, found before something happens on the hub."""

    def effect(_: Request, answer: Response) -> Response:
        happens()
        return answer

    return effect


def flipped(at: int = 0) -> Effect:
    """One bit of the body is wrong."""

    def effect(_: Request, answer: Response) -> Response:
        body = bytearray(answer.body)
        body[at] ^= 1
        answer.body = bytes(body)
        return answer

    return effect


def truncated(count: int) -> Effect:
    """The connection is closed after so many bytes of the body."""

    async def pieces(request: Request, body: bytes) -> AsyncIterator[bytes]:
        yield body[:count]
        request.state.transport.close()
        await asyncio.sleep(0.05)

    return _streamed(pieces)


def reset(count: int = 0) -> Effect:
    """The connection is reset after so many bytes of the body."""

    async def pieces(request: Request, body: bytes) -> AsyncIterator[bytes]:
        yield body[:count]
        await asyncio.sleep(0.05)
        transport = request.state.transport
        at_once = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        transport.abort()
        await asyncio.sleep(0.05)

    return _streamed(pieces)


def stalled(seconds: float, count: int = 0) -> Effect:
    """Nothing comes for a while after so many bytes of the body."""

    async def pieces(_: Request, body: bytes) -> AsyncIterator[bytes]:
        yield body[:count]
        await asyncio.sleep(seconds)
        yield body[count:]

    return _streamed(pieces)


def together(barrier: threading.Barrier) -> Effect:
    """The body comes when as many have asked for one as the barrier is for."""

    async def pieces(_: Request, body: bytes) -> AsyncIterator[bytes]:
        await asyncio.to_thread(barrier.wait, 30)
        yield body

    return _streamed(pieces)


def slow(seconds: float) -> Effect:
    """The body comes in pieces of 64 KiB, with a pause after each."""

    async def pieces(_: Request, body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), _PIECE):
            yield body[start : start + _PIECE]
            await asyncio.sleep(seconds)

    return _streamed(pieces)


def _streamed(pieces: Callable[[Request, bytes], AsyncIterator[bytes]]) -> Effect:
    def effect(request: Request, answer: Response) -> Response:
        if request.method == "HEAD":
            return answer
        body = pieces(request, bytes(answer.body))
        return StreamingResponse(body, answer.status_code, dict(answer.headers))

    return effect


class _Wire(Protocol):
    """Hands its connection to the application, which may break it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


@contextlib.contextmanager
def run_hub(simulator: HubSimulator) -> Iterator[str]:
    """Serve the simulator on a free port; yields its URL."""
    with run_server(simulator.app, http=_Wire) as url:
        yield url
