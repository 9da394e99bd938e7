"""A simulator of the real hub, edited by tests as an object, with faults on request.

It is written against the hub's documentation and its clients, not against this package: caches in
tests are made by the real huggingface_hub downloading from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass
class SimulatedRepo:
    """A model repository: files by commit, and commits by ref."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Add a commit that holds just these files, and point the ref to it."""
        commit_hash = hashlib.sha1(repr((files, len(self.commits))).encode()).hexdigest()
        self.commits[commit_hash] = files
        self.refs[ref] = commit_hash
        return commit_hash

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


class HubSimulator:
    """The hub as an ASGI application. `requests` are those that came; a `fault` answers all."""

    def __init__(self) -> None:
        self.repos: dict[str, SimulatedRepo] = {}
        self.requests: list[str] = []
        self.fault: Response | None = None
        self.app = Starlette(
            routes=[
                Route("/api/models/{org}/{name}", self._guard(self._info)),
                Route("/api/models/{org}/{name}/revision/{revision}", self._guard(self._info)),
                Route("/api/models/{org}/{name}/tree/{revision}", self._guard(self._tree)),
                Route("/{org}/{name}/resolve/{revision}/{path:path}", self._guard(self._resolve)),
            ]
        )

    def repo(self, repo_id: str) -> SimulatedRepo:
        return self.repos.setdefault(repo_id, SimulatedRepo())

    def _guard(self, answer: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            self.requests.append(f"{request.method} {request.url.path}")
            if self.fault is not None:
                return self.fault
            repo = self.repos.get("{org}/{name}".format(**request.path_params))
            if repo is None:
                return _error("RepoNotFound", "Repository not found")
            commit = repo.find(request.path_params.get("revision", "main"))
            if commit is None:
                return _error("RevisionNotFound", "Invalid rev id")
            response: Response = answer(request, commit, repo.commits[commit])
            return response

        return endpoint

    def _info(self, request: Request, commit: str, files: dict[str, bytes]) -> Response:
        repo_id = "{org}/{name}".format(**request.path_params)
        siblings = [{"rfilename": path} for path in files]
        return JSONResponse({"_id": "1", "id": repo_id, "sha": commit, "siblings": siblings})

    def _tree(self, _: Request, __: str, files: dict[str, bytes]) -> Response:
        return JSONResponse([_row(path, body) for path, body in files.items()])

    def _resolve(self, request: Request, commit: str, files: dict[str, bytes]) -> Response:
        path = request.path_params["path"]
        if path not in files:
            return _error("EntryNotFound", "Entry not found", {"x-repo-commit": commit})
        row = _row(path, files[path])
        etag = row.get("lfs", row)["oid"]
        headers = {"x-repo-commit": commit, "etag": f'"{etag}"', "accept-ranges": "bytes"}
        return Response(files[path], headers=headers)


def _row(path: str, body: bytes) -> dict[str, Any]:
    if not path.endswith((".safetensors", ".bin")):
        return {"type": "file", "path": path, "size": len(body), "oid": _git_sha1(body)}
    sha256 = hashlib.sha256(body).hexdigest()
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(body)}\n"
    lfs = {"oid": sha256, "size": len(body), "pointerSize": len(text)}
    oid = _git_sha1(text.encode())
    return {"type": "file", "path": path, "size": len(body), "oid": oid, "lfs": lfs}


def _git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _error(code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    headers = {"x-error-code": code, "x-error-message": message, **(headers or {})}
    return JSONResponse({"error": message}, 404, headers)
