"""Removing from sources that others fill: HF caches, and Bento stores outside the data folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from huggingface_hub import scan_cache_dir

from mirror.core.errors import ConfigError
from mirror.core.files import folder_size, special_file
from mirror.core.repo import Repo, find_commit
from mirror.maintenance.garbage import Garbage, is_old, remove_entry
from mirror.sources.bento import BentoStore
from mirror.sources.hf_cache import HfCache
from mirror.sources.repo_dir import RepoDir
from mirror.sources.scan import files_below

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.core.source import Source


def remove_from(source: Source, repo: Repo, revision: str) -> int | None:
    """Remove a repository, or one `revision` of it; the bytes freed, None where it is not there.

    A plain folder is left alone: it is somebody's own, and no store of repositories.
    """
    if isinstance(source, HfCache):
        return _remove_from_cache(source.root, repo, revision)
    if isinstance(source, BentoStore):
        stored = [entry for entry in source.entries() if entry.holds(repo, revision)]
        return sum(remove_entry(source.home, entry) for entry in stored) if stored else None
    return None


def _remove_from_cache(root: Path, repo: Repo, revision: str) -> int | None:
    """As `hf cache rm` does, which knows the shared blobs of huggingface_hub 2. Raises ConfigError
    where the cache holds what huggingface_hub would read without end."""
    if odd := special_file(root):
        raise ConfigError(
            f"{odd} is neither a file, nor a folder, nor a link to one; or its folder is too deep. "
            "No client of the hub made it. Remove it first."
        )
    found = scan_cache_dir(root)
    for one in found.repos:
        named = Repo.from_folder_name(one.repo_path.name)
        if named is None or named.key != repo.key:
            continue
        folder = RepoDir(root, repo, one.repo_path)
        here = [held.commit_hash for held in one.revisions]
        commit = find_commit(revision, folder.refs(), here) if revision else None
        if revision and commit is None:
            return None
        # A repository that was renamed may be here twice, with the same commits.
        alone = replace(found, repos=frozenset({one}))
        strategy = alone.delete_revisions(*([commit] if commit else here))
        strategy.execute()
        return strategy.expected_freed_size
    return None


def abandoned_in(source: Source) -> Iterator[Garbage]:
    """Downloads that were never finished, and blobs that no snapshot links to; entries that were
    never finished. What changed within a day is left alone."""
    if isinstance(source, HfCache):
        for repo in source.repos():
            yield from _stray(source.root, repo)
    elif isinstance(source, BentoStore) and source.home.is_dir():
        for path in source.home.glob(".hubmirror-*"):
            if is_old(path):
                yield Garbage("an unfinished entry of the Bento store", folder_size(path), path)


def _stray(root: Path, repo: Repo) -> Iterator[Garbage]:
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
