"""The two JSON files beside a snapshot that list its files.

- `trees/<commit>.json` is huggingface_hub's own (>= 1.22, `_tree_cache.py`): all files of the
  commit with their sizes and ids. In a managed cache it lists the wanted files alone.
- `hubmirror/<commit>.json` is our *record* of a pulled revision. A managed revision is visible
  once its record and every file that the record wants are there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from mirror.errors import RequestError
from mirror.repos import COMMIT_HASH, Repo, RepoType
from mirror.trees import RepoFile, check_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FORMAT = 1
_XET_HASH = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ManifestError(ValueError):
    """The file is damaged, or of a format that this version does not know."""


@dataclass(frozen=True, slots=True)
class Record:
    """A pulled revision, as its side file tells it.

    `files` are the wanted files, `left_out` what upstream has beside them. `refs` are the full
    names (`refs/heads/main`, `refs/tags/v1`, `refs/pr/1`) that pointed to the commit at
    `pulled_at`. `info` is the body of upstream's `/api/models/{id}/revision/{commit}`.
    """

    repo: Repo
    commit_hash: str
    files: Mapping[str, RepoFile]
    left_out: Mapping[str, RepoFile] = field(default_factory=dict)
    refs: tuple[str, ...] = ()
    pulled_at: datetime = _EPOCH
    upstream: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

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
                refs=tuple(str(ref) for ref in data["refs"]),
                pulled_at=datetime.fromisoformat(data["pulled_at"]).astimezone(UTC),
                upstream=str(data["upstream"]),
                info=orjson.loads(orjson.dumps(dict(data["info"]))),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RequestError) as exc:
            raise ManifestError(f"damaged: {exc!r}") from exc

    def render(self) -> bytes:
        """The side file's text; `parse` is its inverse."""
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
            },
            option=orjson.OPT_INDENT_2,
        )


def parse_tree(body: bytes) -> dict[str, RepoFile]:
    """The files of a `trees/<commit>.json`. Raises ManifestError."""
    try:
        return parse_files(_loads(body)["files"])
    except (KeyError, TypeError, ValueError, AttributeError, RequestError) as exc:
        raise ManifestError(f"damaged: {exc!r}") from exc


def render_tree(files: Iterable[RepoFile]) -> bytes:
    """A `trees/<commit>.json` that huggingface_hub reads."""
    body = {"format_version": _FORMAT, "files": render_files(files)}
    return orjson.dumps(body, option=orjson.OPT_INDENT_2)


def _loads(body: bytes) -> Any:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise ManifestError(f"not JSON: {exc}") from exc
    if not isinstance(data, dict) or data.get("format_version") != _FORMAT:
        raise ManifestError("of an unknown format")
    return data


def parse_files(files: Mapping[str, Mapping[str, Any]]) -> dict[str, RepoFile]:
    """Entries as huggingface_hub's tree file has them; KeyError, TypeError, ValueError or
    RequestError for any that are not."""
    return {check_path(path): _parse_file(path, entry) for path, entry in files.items()}


def _parse_file(path: str, entry: Mapping[str, Any]) -> RepoFile:
    size, sha256 = int(entry["size"]), entry.get("lfs_sha256")
    told = entry.get("xet_hash")
    xet_hash = told if isinstance(told, str) and _XET_HASH.fullmatch(told) else None
    if sha256 is None:
        return RepoFile(path, size, _commit_hash(entry["blob_id"]), None, xet_hash)
    if len(sha256) != 64 or int(sha256, 16) < 0:
        raise ValueError(f"{sha256!r} is no sha256")
    return RepoFile(path, size, _commit_hash(entry["blob_id"]), sha256, xet_hash)


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
        raise ValueError(f"{text!r} is no git id")
    return text
