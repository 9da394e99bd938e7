"""The table of routes: every path of this server and its handler.

A test compares docs/protocol.md with this table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.web import (
    api,
    declined,
    git,
    health,
    listing,
    ollama,
    package_index,
    pages,
    repo_git,
    resolve,
    sign_in,
    weights,
    xet,
)
from mirror.web.routing import Access, Action, Route, Router

if TYPE_CHECKING:
    from mirror.web.routing import Handler

_MB = 1024 * 1024
_CAS = "/-/cas/{type}/{repo}/{commit}"
_GIT = "/-/git/{host}/{owner}/{name}"


def _repo_route(name: str, path: str, handler: Handler, *, max_body: int = 0) -> Route:
    """A route of one repository below /api/."""
    return Route(name, (f"/api/{{type}}/{{repo}}/{path}",), handler, max_body=max_body)


def _of_repo(path: str) -> tuple[str, str]:
    """The templates of a path below the address of a repository."""
    return f"/{{repo}}/{path}", f"/{{prefix}}/{{repo}}/{path}"


ROUTES = (
    # Files
    Route(
        "resolve",
        (
            "/{repo}/resolve/{revision+}",
            "/{prefix}/{repo}/resolve/{revision+}",
            "/api/resolve-cache/{type}/{repo}/{commit}/{path+}",
        ),
        resolve.resolve,
    ),
    Route("raw", ("/{repo}/raw/{revision+}", "/{prefix}/{repo}/raw/{revision+}"), resolve.raw),
    # git and git-lfs
    Route("repo-git-refs", _of_repo("info/refs"), repo_git.refs, vary=("git-protocol",)),
    Route(
        "repo-git-upload-pack",
        _of_repo("git-upload-pack"),
        repo_git.upload_pack,
        is_cacheable=False,
        max_body=_MB,
    ),
    Route(
        "lfs-batch",
        _of_repo("info/lfs/objects/batch"),
        repo_git.lfs_batch,
        is_cacheable=False,
        max_body=_MB,
    ),
    # Repositories
    Route("listing", ("/api/{type}",), listing.listing, pending_timeout_s=120.0),
    Route("info", ("/api/{type}/{repo}",), api.info),
    _repo_route("revision", "revision/{revision+}", api.info),
    _repo_route("tree", "tree/{revision+}", api.tree),
    _repo_route("paths-info", "paths-info/{revision+}", api.paths_info, max_body=8 * _MB),
    _repo_route("refs", "refs", api.refs),
    _repo_route("commits", "commits/{revision+}", api.commits),
    _repo_route("treesize", "treesize/{revision+}", api.tree_size),
    _repo_route("discussions", "discussions/{number*}", api.discussions),
    _repo_route("auth-check", "auth-check", api.auth_check),
    _repo_route("lfs-files", "lfs-files", weights.lfs_files),
    Route(
        "safetensors-metadata",
        ("/api/models/{repo}/safetensors-metadata/{path+}",),
        weights.safetensors_metadata,
    ),
    _repo_route("parquet", "parquet/{config*}", api.parquet),
    # What clients expect of any hub
    Route("whoami-v2", ("/api/whoami-v2",), api.whoami),
    Route("organization", ("/api/organizations/{name}/overview",), api.organization),
    Route("agent-harnesses", ("/api/agent-harnesses",), api.agent_harnesses),
    Route("models-tags-by-type", ("/api/models-tags-by-type",), api.empty_object),
    Route("datasets-tags-by-type", ("/api/datasets-tags-by-type",), api.empty_object),
    Route("telemetry", ("/api/telemetry/{topic*}",), api.empty_object),
    # Xet: hf_xet asks below the address that xet-read-token gives
    _repo_route("xet-read-token", "xet-read-token/{revision+}", xet.read_token),
    Route(
        "reconstructions",
        (f"{_CAS}/{{v1|v2}}/reconstructions/{{hash}}", f"{_CAS}/reconstruction/{{hash}}"),
        xet.reconstruction,
        access=Access.CAS_TOKEN,
        is_cacheable=False,  # each client waits for the hash as long as it has patience
        pending_timeout_s=240.0,  # hf_xet waits for five minutes, and has no other way to the file
    ),
    Route(
        "blocks",
        (f"{_CAS}/blocks/{{etag}}/{{number}}/{{path+}}",),
        xet.block,
        access=Access.SIGNATURE,
    ),
    Route(
        "xet-telemetry",
        ("/v1/telemetry",),
        xet.telemetry,
        access=Access.OPEN,
        is_cacheable=False,
        max_body=_MB,
    ),
    Route(
        "cas-telemetry",
        (f"{_CAS}/v1/telemetry",),
        xet.telemetry,
        access=Access.CAS_TOKEN,
        is_cacheable=False,
        max_body=_MB,
    ),
    # A container registry, for Ollama and for llama.cpp before 2026
    Route("registry", ("/v2",), ollama.registry),
    Route(
        "manifests",
        ("/v2/{repo}/manifests/{tag}",),
        ollama.manifest,
        vary=("user-agent",),
    ),
    Route("blobs", ("/v2/{repo}/blobs/{digest}",), ollama.blob),
    # Beside the hub
    Route("git-refs", (f"{_GIT}/info/refs",), git.refs, vary=("git-protocol",)),
    Route(
        "git-upload-pack",
        (f"{_GIT}/git-upload-pack",),
        git.upload_pack,
        is_cacheable=False,
        max_body=_MB,
    ),
    Route(
        "git-receive-pack", (f"{_GIT}/git-receive-pack",), git.receive_pack, action=Action.WRITE
    ),
    Route("simple-index", ("/-/simple",), package_index.index, vary=("accept",)),
    Route("simple-project", ("/-/simple/{project}",), package_index.project, vary=("accept",)),
    Route("wheels", ("/-/wheels/{file}",), package_index.wheel),
    Route("constraints", ("/-/constraints/{file}",), package_index.constraints),
    Route("identity", ("/-/identity",), api.identity),
    # For the operator
    Route("status-json", ("/-/status.json",), pages.status_json),
    Route(
        "healthz", ("/healthz",), health.healthz, access=Access.OPEN, is_cacheable=False,
        is_inline=True,
    ),
    Route("readyz", ("/readyz",), health.readyz, access=Access.OPEN, is_cacheable=False),
    Route("metrics", ("/metrics",), health.metrics, is_cacheable=False),
    # Reads that this mirror cannot answer
    *declined.ROUTES,
    # Pages for browsers
    Route("welcome", ("/",), pages.home),
    Route("browse", ("/{type}",), pages.browse),
    Route("repository", ("/{repo}", "/{prefix}/{repo}"), pages.repository),
    Route(
        "files", ("/{repo}/tree/{revision+}", "/{prefix}/{repo}/tree/{revision+}"), pages.files
    ),
    Route("file", ("/{repo}/blob/{revision+}", "/{prefix}/{repo}/blob/{revision+}"), pages.file),
    Route("status", ("/-/status",), pages.status),
    Route("static", ("/-/static/{file}",), pages.static, access=Access.OPEN),
    Route(
        "sign-in", ("/-/sign-in",), sign_in.sign_in, access=Access.OPEN, is_cacheable=False,
        max_body=sign_in.MAX_FORM,
    ),
    Route(
        "sign-out", ("/-/sign-out",), sign_in.sign_out, access=Access.OPEN, is_cacheable=False,
        max_body=sign_in.MAX_FORM,
    ),
    # Reads by POST that are not offered; all other POSTs are refused as uploads
    Route(
        "not-offered",
        ("/api/buckets/{namespace}/{name}/paths-info",),
        api.not_offered,
        is_cacheable=False,
        max_body=_MB,
    ),
)  # fmt: skip

ROUTER = Router(ROUTES)
