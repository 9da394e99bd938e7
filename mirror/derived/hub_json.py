"""JSON bodies in the hub's format, with the field names and types that clients read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mirror.core.repo import RepoType, default_commit
from mirror.core.tree import RepoFile, git_id, lfs_pointer, used_storage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from mirror.core.source import Snapshot
    from mirror.core.tree import RepoFolder
    from mirror.derived.facts import Facts

_FIRST_DATE = datetime(2022, 3, 2, 23, 29, 4, tzinfo=UTC)  # the hub's own floor for createdAt
_OWN = frozenset({"_id", "id", "modelId", "sha", "siblings", "gated", "private", "disabled"})
# Upstream's Xet fields are removed: this mirror adds its own.
_XET = "xet"
_SPACE_STAGE = {
    "stage": "PAUSED",
    "hardware": {"current": None, "requested": None},
    "storage": None,
}


def date(moment: datetime) -> str:
    """A date in the only format that every client parses: milliseconds and a literal Z."""
    return (
        moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
    )


def tree_row(
    entry: RepoFile | RepoFolder, commit: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """One row of `/tree` or `/paths-info`; `commit` is the `lastCommit` of `expand`."""
    row: dict[str, Any]
    if isinstance(entry, RepoFile):
        row = {"type": "file", "oid": entry.blob_id, "size": entry.size, "path": entry.path}
        if entry.lfs_sha256:
            row["lfs"] = {
                "oid": entry.lfs_sha256,
                "size": entry.size,
                "pointerSize": len(lfs_pointer(entry.lfs_sha256, entry.size)),
            }
        if entry.xet_hash:
            row["xetHash"] = entry.xet_hash
    else:
        row = {"type": "directory", "oid": entry.tree_id, "size": 0, "path": entry.path}
    return row | {"lastCommit": commit} if commit else row


def last_commit(snapshot: Snapshot) -> dict[str, str]:
    """The commit of a snapshot as `lastCommit`."""
    return {
        "id": snapshot.commit_hash,
        "title": _title(snapshot),
        "date": date(snapshot.last_modified),
    }


def commits(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The body of `/commits`: only the snapshot's own commit, because a folder has no history."""
    author = {"user": snapshot.repo.author or "hubmirror"}
    return [last_commit(snapshot) | {"message": "", "authors": [author]}]


def refs(named: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """The body of `/refs`, from full ref names."""
    groups: dict[str, list[dict[str, str]]] = {
        "branches": [], "tags": [], "converts": [], "pullRequests": [],
    }  # fmt: skip
    starts = {
        "refs/heads/": "branches", "refs/tags/": "tags",
        "refs/convert/": "converts", "refs/pr/": "pullRequests",
    }  # fmt: skip
    for ref, commit in named.items():
        for start, group in starts.items():
            if ref.startswith(start):
                name = ref.removeprefix(start)
                groups[group].append({"name": name, "ref": ref, "targetCommit": commit})
    main = default_commit(named, [])
    groups["branches"].sort(key=lambda row: (row["targetCommit"] != main, row["name"]))
    return groups


def siblings(files: Iterable[RepoFile], *, blobs: bool) -> list[dict[str, Any]]:
    """`siblings` of a repo info; with `blobs`, sizes and ids (`files_metadata=True`)."""
    ordered = sorted(files, key=lambda file: file.path)
    return [_sibling(file) if blobs else {"rfilename": file.path} for file in ordered]


def _sibling(file: RepoFile) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": file.path, "size": file.size, "blobId": file.blob_id}
    if file.lfs_sha256:
        pointer_size = len(lfs_pointer(file.lfs_sha256, file.size))
        row["lfs"] = {"sha256": file.lfs_sha256, "size": file.size, "pointerSize": pointer_size}
    if file.xet_hash:
        row["xetHash"] = file.xet_hash
    return row


def info(
    facts: Facts,
    files: Mapping[str, RepoFile],
    expand: Collection[str] = (),
    *,
    blobs: bool = False,
) -> dict[str, Any]:
    """The body of `/api/{type}s/{repo}`; `files` are the entries as clients see them.

    With `expand`, the body has only the ids and the requested properties; unknown properties are
    left out. Upstream's values have precedence over values computed from the files, except for the
    fields in `_OWN`, which describe this mirror.
    """
    snapshot = facts.snapshot
    upstream = {
        name: value for name, value in _without_xet(snapshot.info).items() if name not in _OWN
    }
    body: dict[str, Any] = _ids(snapshot)
    if expand:
        if "modelId" not in expand:
            body.pop("modelId", None)
        wanted = [name for name in _PROPERTIES if name in expand]
        rest = {name: value for name, value in upstream.items() if name in expand}
    else:
        wanted = [name for name in _PROPERTIES if name not in _ONLY_EXPANDED]
        rest = upstream
    for name in wanted:
        if name == "siblings":
            body[name] = siblings(files.values(), blobs=blobs)
        elif name not in rest and (value := _PROPERTIES[name](facts)) is not None:
            body[name] = value
    return body | rest


def _ids(snapshot: Snapshot) -> dict[str, Any]:
    repo_id = snapshot.repo.repo_id
    body: dict[str, Any] = {"_id": git_id("repo", str(snapshot.repo).encode())[:24], "id": repo_id}
    if snapshot.repo.repo_type is RepoType.MODEL:
        body["modelId"] = repo_id
    return body


def _of(name: str, repo_type: RepoType) -> Any:
    return lambda facts: (
        getattr(facts, name) or None if facts.snapshot.repo.repo_type is repo_type else None
    )


def _space(value: Any) -> Any:
    is_space = RepoType.SPACE
    return lambda facts: value(facts) if facts.snapshot.repo.repo_type is is_space else None


_PROPERTIES: dict[str, Any] = {
    "author": lambda facts: facts.snapshot.repo.author,
    "sha": lambda facts: facts.snapshot.commit_hash,
    "lastModified": lambda facts: date(facts.snapshot.last_modified),
    "createdAt": lambda facts: date(_FIRST_DATE),
    "private": lambda _: False,
    "gated": lambda _: False,
    "disabled": lambda _: False,
    "downloads": lambda _: 0,
    "downloadsAllTime": lambda _: 0,
    "likes": lambda _: 0,
    "trendingScore": lambda _: 0,
    "usedStorage": lambda facts: used_storage(one.file for one in facts.snapshot.files.values()),
    "tags": lambda facts: facts.tags,
    "pipeline_tag": _of("pipeline_tag", RepoType.MODEL),
    "library_name": _of("library_name", RepoType.MODEL),
    "cardData": lambda facts: facts.card or None,
    "config": _of("config", RepoType.MODEL),
    "transformersInfo": _of("transformers_info", RepoType.MODEL),
    "safetensors": _of("safetensors", RepoType.MODEL),
    "gguf": _of("gguf", RepoType.MODEL),
    "sdk": _space(lambda facts: facts.card.get("sdk", "static")),
    "runtime": _space(lambda _: _SPACE_STAGE),
    "siblings": None,
}
_ONLY_EXPANDED = frozenset({"downloadsAllTime", "trendingScore"})


def _title(snapshot: Snapshot) -> str:
    return f"Snapshot {snapshot.commit_hash[:12]}"


def _without_xet(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_xet(one)
            for name, one in value.items()
            if not name.lower().startswith(_XET)
        }
    if isinstance(value, list):
        return [_without_xet(one) for one in value]
    return value
