"""Finds and removes what a managed cache holds and nobody declares: repositories, revisions, and
files that the filters of the configuration leave out."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mirror.core.record import ManifestError
from mirror.core.repo import find_commit, short_ref, versions
from mirror.core.tree import used_storage
from mirror.core.units import several
from mirror.maintenance.garbage import Removal, kept_blobs, old_revisions, removal
from mirror.store.publish import publish
from mirror.sync.completeness import needed
from mirror.sync.filters import Filters

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from mirror.config.specs import RepoSpec
    from mirror.core.repo import Repo
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache


def undeclared(
    cache: Cache, declared: Sequence[RepoSpec], waiting: Callable[[Repo], Callable[[], None]]
) -> Iterator[Removal]:
    """The removals of everything that is neither declared nor needed by what is declared.

    `waiting` makes the callback that is called before a removal of the repository blocks.
    """
    wanted = needed(cache, [spec.repo for spec in declared])
    for folder in cache.folders():
        specs = [spec for spec in declared if spec.repo.key == folder.repo.key]
        commits = folder.recorded_commits()
        if specs:
            yield from _in_repo(cache, folder, specs, waiting(folder.repo))
        elif commits and folder.repo.key not in wanted:  # without a record, a pull is not finished
            yield removal(cache, folder, "", waiting(folder.repo))


def _in_repo(
    cache: Cache, folder: RepoDir, specs: Sequence[RepoSpec], waiting: Callable[[], None]
) -> Iterator[Removal]:
    refs, commits = folder.refs(), folder.recorded_commits()
    filters: dict[str | None, list[Filters]] = {}
    for spec in specs:
        names = versions(map(short_ref, refs)) if spec.is_all_versions else [spec.revision]
        for name in names:
            commit = find_commit(name, refs, commits)
            filters.setdefault(commit, []).append(Filters(spec.include, spec.exclude))
    kept = filters.keys() | {record.commit_hash for record in old_revisions(folder)}
    for commit in commits:
        if commit not in kept:
            yield removal(cache, folder, commit, waiting)
        elif commit in filters:
            yield from _files(cache, folder, commit, filters[commit], waiting)


def _files(
    cache: Cache,
    folder: RepoDir,
    commit: str,
    filters: Sequence[Filters],
    waiting: Callable[[], None],
) -> Iterator[Removal]:
    """The removal of the files that no filter includes; nothing if the filters include no file."""
    try:
        files = folder.read_record(commit).files
    except (OSError, ManifestError):
        return
    dropped = [path for path in files if not any(wants(path) for wants in filters)]
    if dropped and len(dropped) < len(files):
        size = used_storage(files[path] for path in dropped)
        text = f"{several(len(dropped), 'file')} of {folder.repo}@{commit[:12]}"
        yield Removal(text, size, partial(_narrow, cache, folder, commit, dropped, waiting))


def _narrow(
    cache: Cache,
    folder: RepoDir,
    commit: str,
    dropped: Collection[str],
    waiting: Callable[[], None],
) -> int:
    """Publish a revision without these files, and then remove them. Returns the freed bytes."""
    with cache.lock(folder.repo, waiting):
        record = folder.read_record(commit)
        files = {path: file for path, file in record.files.items() if path not in dropped}
        removed = {path: file for path, file in record.files.items() if path in dropped}
        left_out = {**record.left_out, **removed}
        publish(cache.root, replace(record, files=files, left_out=left_out), refs=())
        kept = kept_blobs(folder)
        freed = used_storage(file for file in removed.values() if file.etag not in kept)
        for path, file in removed.items():
            with contextlib.suppress(FileNotFoundError):
                (folder.snapshot(commit) / path).unlink()
            if file.etag not in kept:
                (folder.blobs / file.etag).unlink(missing_ok=True)
    return freed
