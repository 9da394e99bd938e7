"""The two JSON files in a repository folder that list the files of a commit.

- `trees/<commit>.json` is a file of huggingface_hub (>= 1.22, `_tree_cache.py`): all files of the
  commit with their sizes and ids. In a managed cache it lists only the wanted files.
- `hubmirror/<commit>.json` is hubmirror's *record* of a pulled revision. A revision in a managed
  cache is visible when its record and all wanted files of the record exist.
"""

from __future__ import annotations

import base64
import itertools
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.commit import MAX_COMMIT, MODES, Commit
from mirror.core.errors import RequestError
from mirror.core.repo import COMMIT_HASH, Repo, RepoType, check_ref
from mirror.core.tree import RepoFile, check_disjoint, check_file_path, is_etag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_SIDE_FILE = 64 * 1024 * 1024
"""The maximum size of such a JSON file, in bytes: about 200,000 entries."""

_MAX_VALUES = 2_000_000
"""Values in such a file: while a file is parsed, no other request is answered."""

_FORMAT = 1
_XET_HASH = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


MAX_FILE = 2**53
"""The maximum size of a file in bytes: the largest integer that every JSON parser reads exactly."""

_MAX_FIELDS = 100
_MAX_TEXT = 2000

_DAMAGED = (
    ArithmeticError, AttributeError, KeyError, RecursionError, RequestError, TypeError, ValueError,
)  # fmt: skip


class ManifestError(ValueError):
    """The JSON file is damaged, or has a format that this version does not know."""


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a pulled revision.

    `files` are the wanted files; `left_out` are the other files that upstream has. `refs` are the
    full names (`refs/heads/main`, `refs/tags/v1`, `refs/pr/1`) that pointed to the commit at
    `pulled_at`. `info` is the body of upstream's `/api/models/{id}/revision/{commit}`, and
    `organization`, for a kernel, that of its `/api/organizations/{name}/overview`. `commit` is
    upstream's commit object; `no_git` is true if upstream does not offer it.
    """

    repo: Repo
    commit_hash: str
    files: Mapping[str, RepoFile]
    left_out: Mapping[str, RepoFile] = field(default_factory=dict)
    refs: tuple[str, ...] = ()
    pulled_at: datetime = _EPOCH
    upstream: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    organization: Mapping[str, Any] = field(default_factory=dict)
    commit: Commit | None = None
    no_git: bool = False

    @classmethod
    def parse(cls, body: bytes) -> Record:
        """Raises ManifestError."""
        data = _loads(body)
        try:
            return cls(
                repo=Repo(RepoType(data["repo_type"]), data["repo_id"]),
                commit_hash=_commit_hash(data["commit_hash"]),
                files=parse_files(data["files"]),
                left_out=parse_files(data["left_out"]),
                refs=tuple(check_ref(ref) for ref in data["refs"]),
                pulled_at=_moment(data["pulled_at"]),
                upstream=str(data["upstream"]),
                info=clean_info(data["info"]),
                organization=clean_organization(data["organization"]),
                commit=_parse_commit(data["commit"]),
                no_git=data["no_git"] is True,
            )
        except _DAMAGED as exc:
            raise ManifestError(f"damaged: {exc!r}") from exc

    def render(self) -> bytes:
        """The content of the JSON file; `parse` is the inverse."""
        return orjson.dumps(
            {
                "format_version": _FORMAT,
                "repo_type": self.repo.repo_type.value,
                "repo_id": self.repo.repo_id,
                "commit_hash": self.commit_hash,
                "refs": list(self.refs),
                "pulled_at": self.pulled_at.isoformat(),
                "upstream": self.upstream,
                "files": render_files(self.files.values()),
                "left_out": render_files(self.left_out.values()),
                "info": dict(self.info),
                "organization": dict(self.organization),
                "commit": _render_commit(self.commit),
                "no_git": self.no_git,
            },
            option=orjson.OPT_INDENT_2,
        )


def _parse_commit(value: Any) -> Commit | None:
    if value is None:
        return None
    body = base64.b64decode(value["object"], validate=True)
    modes = {check_file_path(path): mode for path, mode in value["modes"].items()}
    if len(body) > MAX_COMMIT or not MODES.issuperset(modes.values()):
        raise ValueError("an impossible commit object")
    return Commit(body, modes)


def _render_commit(commit: Commit | None) -> dict[str, Any] | None:
    if commit is None:
        return None
    return {"object": base64.b64encode(commit.body).decode(), "modes": dict(commit.modes)}


def parse_tree(body: bytes) -> dict[str, RepoFile]:
    """The files of a `trees/<commit>.json`. Raises ManifestError."""
    try:
        return parse_files(_loads(body)["files"])
    except _DAMAGED as exc:
        raise ManifestError(f"damaged: {exc!r}") from exc


def render_tree(files: Iterable[RepoFile]) -> bytes:
    """The content of a `trees/<commit>.json` for huggingface_hub."""
    body = {"format_version": _FORMAT, "files": render_files(files)}
    return orjson.dumps(body, option=orjson.OPT_INDENT_2)


def _loads(body: bytes) -> Any:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise ManifestError(f"too long: it has more than {_MAX_VALUES} values")
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise ManifestError(f"not JSON: {exc}") from exc
    if not isinstance(data, dict) or data.get("format_version") != _FORMAT:
        raise ManifestError("unknown format")
    return data


def parse_files(files: Mapping[str, Mapping[str, Any]]) -> dict[str, RepoFile]:
    """The entries of huggingface_hub's tree file. Raises KeyError, TypeError, ValueError or
    RequestError for an invalid entry."""
    parsed = {check_file_path(path): _parse_file(path, entry) for path, entry in files.items()}
    check_disjoint(parsed)
    return parsed


def _parse_file(path: str, entry: Mapping[str, Any]) -> RepoFile:
    size, sha256 = entry["size"], entry.get("lfs_sha256")
    if type(size) is not int or not 0 <= size <= MAX_FILE:
        raise ValueError(f"{size!r} is not a size in bytes")
    if sha256 is not None and (not is_etag(sha256) or len(sha256) != 64):
        raise ValueError(f"{sha256!r} is not a sha256")
    xet_hash = entry.get("xet_hash")
    is_hash = isinstance(xet_hash, str) and _XET_HASH.fullmatch(xet_hash)
    blob_id = _commit_hash(entry["blob_id"])
    return RepoFile(path, size, blob_id, sha256, xet_hash if is_hash else None)


def render_files(files: Iterable[RepoFile]) -> dict[str, dict[str, Any]]:
    """The inverse of `parse_files`."""
    return {file.path: _render_file(file) for file in sorted(files, key=lambda file: file.path)}


def _render_file(file: RepoFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": file.size, "blob_id": file.blob_id}
    if file.lfs_sha256:
        entry |= {"lfs_sha256": file.lfs_sha256, "lfs_size": file.size}
    if file.xet_hash:
        entry["xet_hash"] = file.xet_hash
    return entry


def _commit_hash(text: Any) -> str:
    if not isinstance(text, str) or not COMMIT_HASH.fullmatch(text):
        raise ValueError(f"{text!r} is not a git id")
    return text


def _moment(text: str) -> datetime:
    """The time in UTC. Raises ValueError, or OverflowError if `datetime` cannot hold the time."""
    moment = datetime.fromisoformat(text).astimezone(UTC)
    if moment < _EPOCH:
        raise ValueError(f"{text!r} is before 1970")
    return moment


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in types


# The types of fields in the responses of the hub's API. A field of another type breaks clients,
# sorting and filters. Fields that are not in this table are passed on unchanged.
_INFO_TYPES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("_id", "id", "modelId", "author", "sha", "pipeline_tag", "library_name", "sdk",
         "lastModified", "createdAt"),
        _is(str),
    ),
    **dict.fromkeys(("downloads", "downloadsAllTime", "likes", "usedStorage"), _is_count),
    **dict.fromkeys(("private", "disabled"), _is(bool)),
    **dict.fromkeys(
        ("cardData", "config", "transformersInfo", "safetensors", "gguf", "runtime"), _is(dict)
    ),
    "gated": _is(bool, str),
    "trendingScore": _is(int, float),
    "tags": _strings,
    "siblings": _is(list),
}  # fmt: skip
_OPTIONAL = frozenset({"author", "pipeline_tag", "library_name", "cardData", "config", "gguf"})


def clean_info(info: Any) -> dict[str, Any]:
    """The response of upstream's API about a repository, without fields of a wrong type.

    Raises TypeError or ValueError if it is not a JSON object.
    """
    plain = orjson.loads(orjson.dumps(dict(info)))
    return {
        name: value
        for name, value in plain.items()
        if name not in _INFO_TYPES
        or _INFO_TYPES[name](value)
        or (value is None and name in _OPTIONAL)
    }


def clean_organization(overview: Any) -> dict[str, Any]:
    """The scalar fields of upstream's overview of an organization.

    Raises TypeError or ValueError if it is not a JSON object.
    """
    return {
        name: value
        for name, value in itertools.islice(dict(overview).items(), _MAX_FIELDS)
        if (isinstance(value, str) and len(value) <= _MAX_TEXT) or type(value) in (bool, int)
    }
