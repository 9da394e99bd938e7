"""The hub's URLs, read from the raw path: what is asked, of which repository.

Paths are split before they are decoded, and each segment is decoded once: a revision arrives as
`refs%2Fpr%2F1`, a file as `dir%20with%20space/a%23b`, and old clients send `data%2Ftrain.parquet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from mirror.core.errors import NotOfferedError, RequestError
from mirror.core.repo import COMMIT_HASH, PLURALS, RepoType

# What follows a repo id, below /api/ and elsewhere: it also tells where a bare id (`gpt2`) ends.
_API_WORDS = frozenset({
    "revision", "tree", "paths-info", "refs", "commits", "treesize", "compare", "auth-check",
    "discussions", "parquet", "croissant", "xet-read-token", "xet-write-token", "preupload",
    "commit", "branch", "tag", "settings", "super-squash", "safetensors-metadata",
})  # fmt: skip
_API_ALONE = frozenset({"refs", "auth-check", "discussions", "parquet"})
_FILE_WORDS = frozenset({"resolve", "raw"})
_STUBS = frozenset({
    "whoami-v2", "agent-harnesses", "models-tags-by-type", "datasets-tags-by-type", "telemetry",
})  # fmt: skip
_LONGEST = 8192


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL asks for: an action, the repository, and the decoded segments that follow."""

    action: str
    repo_type: RepoType = RepoType.MODEL
    repo_id: str = ""
    rest: tuple[str, ...] = ()


def parse(raw_path: bytes) -> Target:
    """Raises NotOfferedError for what a mirror has no answer for, RequestError for nonsense."""
    if len(raw_path) > _LONGEST:
        raise RequestError(f"The path is longer than {_LONGEST} bytes.")
    segments = [_decode(segment) for segment in raw_path.split(b"/") if segment]
    match segments:
        case []:
            return Target("welcome")
        case ["-", *rest]:
            return _own(rest)
        case ["api", *rest]:
            return _api(rest)
        case ["v1" | "v2", *_]:
            return _foreign(segments)
        case ["datasets" | "spaces" as plural, *rest]:
            return _file(PLURALS[plural], rest)
        case _:
            return _file(RepoType.MODEL, segments)


def _decode(segment: bytes) -> str:
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as exc:
        raise RequestError("The path is not UTF-8.") from exc
    if "\0" in text or ".." in text.split("/"):
        raise RequestError("The path holds a NUL byte or a parent folder.")
    return text


def _api(segments: list[str]) -> Target:
    match segments:
        case [name, *_] if name in _STUBS:
            return Target(name)
        case ["resolve-cache", plural, *rest] if plural in PLURALS:
            return _resolve_cache(PLURALS[plural], rest)
        case [plural] if plural in PLURALS:
            return Target("listing", PLURALS[plural])
        case [plural, *rest] if plural in PLURALS:
            return _repo(PLURALS[plural], rest)
    raise NotOfferedError


def _repo(repo_type: RepoType, segments: list[str]) -> Target:
    for end in (1, 2):
        word = segments[end] if len(segments) > end else ""
        if word in _API_WORDS and (len(segments) > end + 1 or word in _API_ALONE):
            return Target(word, repo_type, "/".join(segments[:end]), tuple(segments[end + 1 :]))
    if len(segments) > 2:
        raise NotOfferedError
    return Target("info", repo_type, "/".join(segments))


def _file(repo_type: RepoType, segments: list[str]) -> Target:
    for end in (1, 2):
        if len(segments) > end and segments[end] in _FILE_WORDS:
            rest = tuple(segments[end + 1 :])
            return Target(segments[end], repo_type, "/".join(segments[:end]), rest)
    raise NotOfferedError


def _resolve_cache(repo_type: RepoType, segments: list[str]) -> Target:
    for end in (1, 2):
        if len(segments) > end + 1 and COMMIT_HASH.fullmatch(segments[end]):
            return Target("resolve", repo_type, "/".join(segments[:end]), tuple(segments[end:]))
    raise NotOfferedError


def _own(segments: list[str]) -> Target:
    """Routes that are this server's own."""
    match segments:
        case ["identity"]:
            return Target("identity")
        case ["cas", plural, *rest] if plural in PLURALS:
            return _cas(PLURALS[plural], rest)
        case ["git", host, owner, name, *rest]:
            return _git((host, owner, name), rest)
        case ["simple"]:
            return Target("simple-index")
        case [("simple" | "wheels" | "constraints") as place, name]:
            return Target("simple-project" if place == "simple" else place, rest=(name,))
    raise NotOfferedError


def _git(repository: tuple[str, ...], segments: list[str]) -> Target:
    match segments:
        case ["info", "refs"]:
            return Target("git-refs", rest=repository)
        case [("git-upload-pack" | "git-receive-pack") as service]:
            return Target(service, rest=repository)
    raise NotOfferedError


def _cas(repo_type: RepoType, segments: list[str]) -> Target:
    """Xet's routes, below the address that `xet-read-token` gives."""
    for end in (2, 1):  # a repository may be named like a commit
        if len(segments) > end and COMMIT_HASH.fullmatch(segments[end]):
            action, rest = _cas_action(segments[end + 1 :])
            return Target(action, repo_type, "/".join(segments[:end]), (segments[end], *rest))
    raise NotOfferedError


def _cas_action(segments: list[str]) -> tuple[str, tuple[str, ...]]:
    match segments:
        case [("v1" | "v2") as version, "reconstructions", xet_hash]:
            return "reconstructions", (version, xet_hash)
        case ["reconstruction", xet_hash]:
            return "reconstructions", ("v1", xet_hash)
        case ["blocks", etag, number, *path]:
            return "blocks", (etag, number, *path)
        case ["v1", "telemetry"]:
            return "xet-telemetry", ()
    raise NotOfferedError


def _foreign(segments: list[str]) -> Target:
    """Routes of other services that clients expect at the root: hf_xet's telemetry, and a container
    registry, which Ollama and older llama.cpp use."""
    match segments:
        case ["v1", "telemetry"]:
            return Target("xet-telemetry")
        case ["v2"]:
            return Target("registry")
        case ["v2", namespace, name, ("manifests" | "blobs") as action, reference]:
            return Target(action, RepoType.MODEL, f"{namespace}/{name}", (reference,))
    raise NotOfferedError
