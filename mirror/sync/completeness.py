"""Compares a managed cache with its records: missing blobs, broken links, needed repositories."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from mirror.core.files import read_regular
from mirror.core.record import ManifestError, Record
from mirror.sync.dependencies import needs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mirror.core.repo import Repo
    from mirror.core.tree import RepoFile
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache

_MAX_CONFIG = 8 * 1024 * 1024


def read_record(folder: RepoDir, commit_hash: str) -> Record | None:
    """The record of a revision; None if it is absent or damaged."""
    try:
        return folder.read_record(commit_hash)
    except (OSError, ManifestError):
        return None


def wanted_files(cache: Cache, repo: Repo, commit_hash: str) -> set[str]:
    """The paths of the wanted files of a revision. If its record is damaged, its tree file lists
    them; an empty set means all files."""
    folder = cache.folder(repo)
    record = read_record(folder, commit_hash)
    return set(record.files if record else folder.read_tree(commit_hash) or ())


def has_complete_revision(cache: Cache, repo: Repo) -> bool:
    """Whether the cache has at least one complete revision of the repository."""
    folder = cache.folder(repo)
    records = (read_record(folder, commit) for commit in folder.recorded_commits())
    return any(record and not files_missing(cache, folder, record) for record in records)


def needed(cache: Cache, repos: Iterable[Repo]) -> set[str]:
    """The repositories and all repositories that their files name, directly or through other
    repositories; by their keys."""
    found: set[str] = set()
    pending = list(repos)
    while pending:
        repo = pending.pop()
        if repo.key in found:
            continue
        found.add(repo.key)
        folder = cache.folder(repo)
        for commit in folder.recorded_commits():
            if record := read_record(folder, commit):
                read = partial(read_file, folder, record)
                pending += [need.repo for need in needs(repo, record.files, read)]
    return found


def files_missing(cache: Cache, folder: RepoDir, record: Record) -> tuple[RepoFile, ...]:
    """The wanted files whose blobs are not in place."""
    return tuple(file for file in record.files.values() if not cache.has(folder, file))


def is_linked(folder: RepoDir, record: Record) -> bool:
    """Whether the refs, the tree file and the symlinks of the snapshot match the record."""
    snapshot = folder.snapshot(record.commit_hash)
    return (
        all(folder.points_to(name) == record.commit_hash for name in record.refs)
        and set(folder.read_tree(record.commit_hash) or ()) == set(record.files)
        and all(
            _leads_to_blob(folder, snapshot / path, file) for path, file in record.files.items()
        )
    )


def _leads_to_blob(folder: RepoDir, link: Path, file: RepoFile) -> bool:
    if not link.is_symlink():
        return link.exists()  # the file system may have no symlinks
    return os.path.realpath(link) == os.path.realpath(folder.blobs / file.etag)


def read_file(folder: RepoDir, record: Record, path: str) -> bytes:
    """A file of a revision; empty if it is absent or larger than 8 MiB."""
    file = record.files.get(path)
    try:
        return read_regular(folder.blobs / file.etag, _MAX_CONFIG) if file else b""
    except OSError:
        return b""
