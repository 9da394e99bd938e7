"""Removes repositories and garbage from HF caches and Bento stores outside the data folder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from huggingface_hub import scan_cache_dir

from mirror.core.errors import ConfigError
from mirror.core.files import folder_size, special_file
from mirror.core.repo import Repo, find_commit
from mirror.core.source import Layout
from mirror.maintenance.garbage import Garbage, Removal, is_old, remove_entry
from mirror.sources.bento_entry import entries
from mirror.sources.repo_dir import RepoDir
from mirror.sources.scan import files_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from huggingface_hub import DeleteCacheStrategy

    from mirror.core.source import Source


def removal_from(source: Source, repo: Repo, revision: str) -> Removal | None:
    """The removal of a repository, or of one revision of it if `revision` is not empty.

    None if the source does not have it. A plain folder is never removed, since it belongs to
    another user.
    """
    find = _FINDERS.get(source.layout)
    found = find(source.root, repo, revision) if find and source.root else None
    return replace(found, text=f"{found.text} from {source.label}") if found else None


def _in_store(home: Path, repo: Repo, revision: str) -> Removal | None:
    stored = [entry for entry in entries(home) if entry.holds(repo, revision)]
    if not stored:
        return None
    size = sum(folder_size(entry.folder) for entry in stored)
    return Removal(
        _name(repo, revision), size, lambda: sum(remove_entry(home, entry) for entry in stored)
    )


def _in_cache(root: Path, repo: Repo, revision: str) -> Removal | None:
    """Remove from an HF cache like `hf cache rm`, which handles the shared blobs of
    huggingface_hub 2. Raises ConfigError for a FIFO or device, which `scan_cache_dir` would read
    without end."""
    if special := special_file(root):
        raise ConfigError(
            f"{special} is not a file, a folder or a symlink, or its folder is nested too deep. No "
            "hub client creates such files. Remove it first."
        )
    cache_info = scan_cache_dir(root)
    for cached in cache_info.repos:
        named = Repo.from_folder_name(cached.repo_path.name)
        if named is None or named.key != repo.key:
            continue
        folder = RepoDir(root, repo, cached.repo_path)
        commits = [cached_revision.commit_hash for cached_revision in cached.revisions]
        commit = find_commit(revision, folder.refs(), commits) if revision else None
        if revision and commit is None:
            return None
        # After a rename, two repositories of the cache may have the same commits.
        single = replace(cache_info, repos=frozenset({cached}))
        strategy = single.delete_revisions(*([commit] if commit else commits))
        return Removal(_name(repo, revision), strategy.expected_freed_size, partial(_run, strategy))
    return None


def _run(strategy: DeleteCacheStrategy) -> int:
    strategy.execute()
    return strategy.expected_freed_size


def _name(repo: Repo, revision: str) -> str:
    return f"{repo}@{revision}" if revision else str(repo)


def abandoned_in(source: Source) -> Iterator[Garbage]:
    """Unfinished downloads and blobs without a snapshot in an HF cache; unfinished entries in a
    Bento store. Omits files that changed within a day."""
    if source.root is None:
        return
    if source.layout in (Layout.HF_CACHE, Layout.MANAGED_CACHE):
        for repo in source.repos():
            yield from _stray_blobs(source.root, repo)
    elif source.layout is Layout.BENTO_STORE and source.root.is_dir():
        for path in source.root.glob(".hubmirror-*"):
            if is_old(path):
                yield Garbage("an unfinished entry of the Bento store", folder_size(path), path)


def _stray_blobs(root: Path, repo: Repo) -> Iterator[Garbage]:
    folder = RepoDir(root, repo, root / repo.folder_name)
    snapshots = folder.path / "snapshots"
    if folder.recorded() or not folder.blobs.is_dir() or not snapshots.is_dir():
        return
    links = (snapshots / path for path in files_below(str(snapshots)))
    linked = {link.readlink().name for link in links if link.is_symlink()}
    for path in sorted(folder.blobs.iterdir()):
        if path.name not in linked and is_old(path):
            text = f"{repo}: blob {path.name[:12]} belongs to no snapshot"
            yield Garbage(text, path.lstat().st_size, path)


_FINDERS: dict[Layout, Callable[[Path, Repo, str], Removal | None]] = {
    Layout.HF_CACHE: _in_cache,
    Layout.MANAGED_CACHE: _in_cache,
    Layout.BENTO_STORE: _in_store,
}
