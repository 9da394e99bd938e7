"""What lies beside the models, made in code: wheels, an index of them, and git repositories of
bentos."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.openllm.served_files import OpenLLMFiles
from mirror.sources.first_found import FirstFound
from mirror.web.access import Signer
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from tests.folders import COMMIT
from tests.servers import run_server

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed here")
needs_uv = pytest.mark.skipif(
    importlib.util.find_spec("uv") is None, reason="uv is not installed in this environment"
)

DAY = "2025-05-01T00:29:14+00:00"
ENDPOINT = "https://huggingface.co"
MODEL_ID = "meta-llama/llama-3.2-1b-instruct"
_BENTO = """\
service: service:LLM
name: {name}
version: {version}
bentoml_version: 1.4.12
creation_time: '{created}'
labels:
  generator: openllm
  aliases: {aliases}
models: []
entry_service: {name}
services:
- name: {name}
  service: ''
  models:
  - tag: meta-llama--model:89c764f30f615f136ee7c12edf607ca8
    module: null
    creation_time: '{created}'
    registry: {registry}
    metadata:
      model_id: {model_id}
      revision: {revision}
      endpoint: {endpoint}
      include: null
      exclude:
      - '*.pth'
      - original/**/*
  dependencies: []
envs:
- name: HF_TOKEN
  value: ''
image:
  base_image: python:{python}-slim
  python_version: '{python}'
"""


@contextlib.contextmanager
def serving_openllm_files(data: Path, token: str = "") -> Iterator[httpx2.Client]:
    """A client of a server of what lies in a data folder beside the models, which for a minute
    gives again what it may. With a token it is locked."""
    state = State(data / "state")
    with contextlib.closing(Digests(state)) as digests:
        proxy, openllm_files = ProxySettings(signer=Signer(token)), OpenLLMFiles(data, digests)
        app = create_app(FirstFound([]), state, proxy=proxy, openllm_files=openllm_files, ttl_s=60)
        with run_server(app) as url, httpx2.Client(base_url=url, timeout=20) as client:
            yield client


# Wheels


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    python: str = "",
    tag: str = "py3-none-any",
) -> Path:
    """A wheel with one module, which tells its version; `python` is its Requires-Python."""
    stem = f"{name.replace('-', '_').replace('.', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    metadata += f"Requires-Python: {python}\n" if python else ""
    files = {
        f"{stem.partition('-')[0]}.py": f"version = {version!r}\n".encode(),
        f"{stem}.dist-info/METADATA": metadata.encode(),
        f"{stem}.dist-info/WHEEL": (
            f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
        ),
    }
    record = "".join(f"{path},{_record_digest(body)},{len(body)}\n" for path, body in files.items())
    files[f"{stem}.dist-info/RECORD"] = f"{record}{stem}.dist-info/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as opened:
        for path, body in files.items():
            opened.writestr(zipfile.ZipInfo(path), body, zipfile.ZIP_DEFLATED)
    return wheel


def _record_digest(body: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def run_index(folder: Path, published: Mapping[str, str] | None = None) -> Iterator[str]:
    """The URL of a package index of a folder's wheels, as the public one answers: it tells when
    each was published, DAY where `published` has no other time for its file name."""

    def project(request: Request) -> Response:
        name = request.path_params["name"]
        found = [path for path in sorted(folder.glob("*.whl")) if _project(path) == name]
        rows = [
            {
                "filename": path.name,
                "url": f"../../files/{path.name}",
                "hashes": {"sha256": digests.setdefault(path, sha256(path))},
                "size": path.stat().st_size,
                "upload-time": (published or {}).get(path.name, DAY),
            }
            for path in found
        ]
        body = {"meta": {"api-version": "1.1"}, "name": name, "files": rows, "versions": []}
        kind = "application/vnd.pypi.simple.v1+json"
        return Response(json.dumps(body), 200 if rows else 404, media_type=kind)

    def file(request: Request) -> Response:
        path = folder / request.path_params["name"]
        return FileResponse(path) if path.is_file() else Response(status_code=404)

    digests: dict[Path, str] = {}
    routes = [Route("/simple/{name}/", project), Route("/files/{name}", file)]
    with run_server(Starlette(routes=routes)) as url:
        yield f"{url}/simple/"


@contextlib.contextmanager
def uv_set_to(
    folder: Path, cache: Path, published: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Have uv, here and in child processes, ask an index of a folder's wheels and nothing else;
    its URL."""
    with run_index(folder, published) as url, pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("UV_", "PIP_")):
                patch.delenv(name)
        patch.setenv("UV_DEFAULT_INDEX", url)
        patch.setenv("UV_CACHE_DIR", str(cache))
        patch.setenv("UV_NO_CONFIG", "1")
        yield url


def _project(wheel: Path) -> str:
    return wheel.name.partition("-")[0].replace("_", "-").lower()


# Git repositories


def git(folder: Path, *words: str, said: str = "", status: int = 0, **environment: str) -> str:
    """What git answers, run in a folder. Nothing of the user's is read, and the same commands give
    the same ids."""
    done = subprocess.run(
        ["git", *words], cwd=folder, input=said, capture_output=True, text=True, check=False,
        env={
            "PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
            **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
               for what, value in (("NAME", "x"), ("EMAIL", "x@y"), ("DATE", "1700000000 +0200"))},
            **environment,
        },
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout.strip() if status == 0 else done.stderr


def commit(folder: Path, files: Mapping[str, bytes], branch: str = "main") -> str:
    """Add a commit to a branch of a repository, each made if need be; its id."""
    if not (folder / ".git").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet", f"--initial-branch={branch}")
    elif git(folder, "branch", "--list", branch):
        git(folder, "switch", "--quiet", branch)
    else:
        git(folder, "switch", "--quiet", "--create", branch)
    for path, body in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
    return git(folder, "rev-parse", "HEAD")


def serve_bare(
    folder: Path, data: Path, address: str = "github.com/bentoml/openllm-models"
) -> Path:
    """Put a repository, with all of its branches, where the mirror offers it."""
    bare = data / "git" / f"{address}.git"
    bare.parent.mkdir(parents=True, exist_ok=True)
    git(folder, "clone", "--quiet", "--bare", str(folder), str(bare))
    return bare


def bento_yaml(tag: str = "llama3.2:1b-instruct-fa1d", **changes: Any) -> bytes:
    """A bento.yaml as those of the real model repository are."""
    name, _, version = tag.partition(":")
    usual = {
        "name": name, "version": version, "aliases": "1b,1b-instruct", "created": DAY,
        "registry": "huggingface", "model_id": MODEL_ID, "revision": COMMIT,
        "endpoint": ENDPOINT, "python": "3.11",
    }  # fmt: skip
    return _BENTO.format(**(usual | changes)).encode()


def bento_files(
    tag: str = "llama3.2:1b-instruct-fa1d", requirements: str = "tiny-a\n", **changes: Any
) -> dict[str, bytes]:
    """A bento's files by path, in a model repository."""
    folder = f"bentoml/bentos/{tag.replace(':', '/')}"
    return {
        f"{folder}/bento.yaml": bento_yaml(tag, **changes),
        f"{folder}/env/python/requirements.txt": requirements.encode(),
    }
