"""Removes repositories, revisions, and garbage: old revisions, stray blobs, unfinished work."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from mirror.core.errors import RevisionNotFoundError
from mirror.core.files import folder_size, remove_tree
from mirror.core.record import ManifestError
from mirror.core.repo import find_commit
from mirror.derived.digests import is_needed
from mirror.derived.state import write_atomically
from mirror.sources.bento_entry import entries
from mirror.sources.pull_status import forget_pull
from mirror.store.cache import BUNDLE_LOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mirror.config.specs import RepoSpec
    from mirror.core.record import Record
    from mirror.derived.state import State
    from mirror.sources.bento_entry import Entry
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache


_FACTS = (
    "digests", "facts/card", "facts/config", "facts/tokenizer", "headers/gguf",
    "headers/safetensors", "pages/card", "pages/code",
)  # fmt: skip
_MAX_FACTS = 200_000
"""Facts of a kind that a run looks at."""

_ABANDONED_AFTER_S = 24 * 3600.0
"""Unfinished work and stray blobs of this age are abandoned."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file, folder or revision that may be removed.

    `text` describes it to the operator; `size` is in bytes. `commit_hash` is set for a revision,
    and `folder` for a revision or a blob of a managed repository.
    """

    text: str
    size: int
    path: Path
    commit_hash: str = ""
    folder: RepoDir | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that an operator wants to remove: `text` describes it, `size` is in bytes, and
    `remove` removes it and returns the freed bytes."""

    text: str
    size: int
    remove: Callable[[], int]


def removal(cache: Cache, folder: RepoDir, revision: str, waiting: Callable[[], None]) -> Removal:
    """The removal of a repository of the cache or, if `revision` is not empty, of one revision.

    `waiting` is called before the removal blocks, if a pull holds the lock. Raises
    RevisionNotFoundError.
    """
    commits = folder.recorded_commits()
    commit = find_commit(revision, folder.refs(), commits) if revision else None
    if revision and commit is None:
        raise RevisionNotFoundError(folder.repo, revision)
    text = f"{folder.repo}@{revision}" if revision else str(folder.repo)
    if commit is None or commits == [commit]:
        size = folder_size(folder.path)
    else:
        size = sum(_own_blobs(folder, commit).values())
    if commit is None:
        return Removal(text, size, partial(remove_repo, cache, folder, waiting))
    return Removal(text, size, partial(remove_revision, cache, folder, commit, waiting))


def remove_repo(cache: Cache, folder: RepoDir, waiting: Callable[[], None]) -> int:
    """Remove a repository atomically for readers. Returns its size in bytes. `waiting` is called
    before this blocks, if a pull holds the lock."""
    with cache.lock(folder.repo, waiting):
        return _remove_folder(cache, folder)


def remove_revision(
    cache: Cache, folder: RepoDir, revision: str, waiting: Callable[[], None]
) -> int:
    """Remove one revision, its refs, and the blobs that no other revision wants. Returns the freed
    bytes.

    Raises RevisionNotFoundError.
    """
    with cache.lock(folder.repo, waiting):
        refs = folder.refs()
        commit = find_commit(revision, refs, folder.recorded_commits())
        if commit is None:
            raise RevisionNotFoundError(folder.repo, revision)
        if folder.recorded_commits() == [commit]:
            return _remove_folder(cache, folder)
        return _remove_files(folder, commit)


def _remove_folder(cache: Cache, folder: RepoDir) -> int:
    size = folder_size(folder.path)
    trash = cache.work_dir / "trash" / uuid.uuid4().hex
    trash.parent.mkdir(parents=True, exist_ok=True)
    folder.path.rename(trash)
    remove_tree(trash)
    remove_tree(cache.staging(folder.repo))
    forget_pull(cache.root, folder.repo)
    return size


def remove_entry(home: Path, entry: Entry) -> int:
    """Remove a Bento entry atomically for readers, and point `latest` to the newest other entry.
    Returns its size in bytes."""
    size = folder_size(entry.folder)
    name = entry.tag.partition(":")[0]
    trash = home / f".hubmirror-{uuid.uuid4().hex}"
    entry.folder.rename(trash)
    remove_tree(trash)
    folder = entry.folder.parent
    remaining = [other for other in entries(home) if other.tag.startswith(f"{name}:")]
    if not remaining:
        remove_tree(folder)
    elif entry.is_latest:
        newest = max(remaining, key=attrgetter("created_at"))
        write_atomically(folder / "latest", newest.folder.name.encode())
    return size


def _remove_files(folder: RepoDir, commit: str) -> int:
    """Remove the refs, record, tree file, snapshot and own blobs of a revision, in this order, so
    that readers never see a part of it. Returns the bytes of the blobs."""
    own = _own_blobs(folder, commit)
    for name, target in folder.refs().items():
        if target == commit:
            folder.ref(name).unlink(missing_ok=True)
    folder.record(commit).unlink(missing_ok=True)
    folder.tree(commit).unlink(missing_ok=True)
    remove_tree(folder.snapshot(commit))
    for name in own:
        (folder.blobs / name).unlink(missing_ok=True)
    return sum(own.values())


def _own_blobs(folder: RepoDir, commit: str) -> dict[str, int]:
    """The blobs that only this revision wants, with their sizes. Empty if another record is
    damaged, since it may want any blob."""
    records = _records(folder)
    if len(records) < len(folder.recorded_commits()):
        return {}
    kept = {
        file.etag
        for record in records
        if record.commit_hash != commit
        for file in record.files.values()
    }
    return {
        file.etag: file.size
        for record in records
        if record.commit_hash == commit
        for file in record.files.values()
        if file.etag not in kept
    }


def find_garbage(cache: Cache, pinned: Iterable[RepoSpec] = ()) -> list[Garbage]:
    """Revisions without refs that are not pinned, blobs of no revision, and abandoned work. Empty
    while a bundle is applied, since its blobs arrive before their records."""
    specs = list(pinned)
    with cache.try_lock(BUNDLE_LOCK) as is_free:
        if not is_free:
            return []
        found = [item for folder in cache.folders() for item in _garbage_of(folder, specs)]
        return found + list(_abandoned(cache))


def unused_facts(state: State) -> list[Garbage]:
    """Facts in the state folder that nobody used for 30 days: digests of files that are gone, and
    what small files said. All can be computed again. A run looks at a bounded number of them."""
    return [
        Garbage(f"unused facts ({kind})", path.lstat().st_size, path)
        for kind in _FACTS
        for path in state.unused(kind, is_needed if kind == "digests" else _never, _MAX_FACTS)
    ]


def _never(_: object) -> bool:
    return False


def collect(cache: Cache, found: list[Garbage]) -> int:
    """Remove garbage, except in repositories that a pull has locked. Returns the freed bytes."""
    freed = 0
    for item in found:
        name = item.folder.repo.folder_name if item.folder else item.path.name
        with cache.try_lock(name) as is_free:
            freed += _collect(item) if is_free else 0
    return freed


def _collect(item: Garbage) -> int:
    """Remove an item if it is still garbage: a pull may have used it since it was found."""
    if item.folder is None:
        return delete_garbage(item)
    if item.commit_hash:
        if item.commit_hash not in {record.commit_hash for record in old_revisions(item.folder)}:
            return 0
        return _remove_files(item.folder, item.commit_hash)
    if item.path.exists() and item.path.name not in kept_blobs(item.folder):
        return delete_garbage(item)
    return 0


def old_revisions(folder: RepoDir) -> list[Record]:
    """Revisions whose refs now all point to other revisions. A revision that was pulled by its
    commit hash has no refs, and is not old."""
    commits = set(folder.recorded_commits())
    old = []
    for record in _records(folder):
        targets = {folder.points_to(name) for name in record.refs}
        if targets and targets <= commits - {record.commit_hash}:
            old.append(record)
    return old


def _garbage_of(folder: RepoDir, pinned: Iterable[RepoSpec]) -> Iterator[Garbage]:
    refs, commits = folder.refs(), folder.recorded_commits()
    kept = {
        find_commit(spec.revision, refs, commits)
        for spec in pinned
        if spec.repo.key == folder.repo.key
    }
    for record in old_revisions(folder):
        if record.commit_hash in kept:
            continue
        own = _own_blobs(folder, record.commit_hash)
        text = f"{folder.repo} at {record.commit_hash[:12]}: no ref points to it"
        yield Garbage(
            text, sum(own.values()), folder.record(record.commit_hash), record.commit_hash, folder
        )
    yield from _stray_blobs(folder)


def _stray_blobs(folder: RepoDir) -> Iterator[Garbage]:
    """Blobs of no revision that are at least a day old: rsync may copy the blobs of a revision
    before its record."""
    if len(_records(folder)) < len(folder.recorded_commits()):
        return  # a damaged record may want any blob
    kept = kept_blobs(folder)
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder.blobs):
            path = folder.blobs / entry.name
            if entry.name not in kept and is_old(path):
                text = f"{folder.repo}: blob {entry.name[:12]} belongs to no revision"
                yield Garbage(text, entry.stat(follow_symlinks=False).st_size, path, folder=folder)


def is_old(path: Path) -> bool:
    """Whether the ctime is older than a day. rsync sets the mtime, but cannot set the ctime."""
    return time.time() - path.lstat().st_ctime > _ABANDONED_AFTER_S


def kept_blobs(folder: RepoDir) -> set[str]:
    """The blobs that a record of the repository wants."""
    return {file.etag for record in _records(folder) for file in record.files.values()}


def _abandoned(cache: Cache) -> Iterator[Garbage]:
    for kind, text in (
        ("fills", "partial files of {}"),
        ("staging", "an unfinished pull of {}"),
        ("pulls", "the state of an unfinished pull of {}"),
        ("corrupt", "corrupt files of {}"),
        ("trash", "the rest of a removed repository"),
    ):
        folder = cache.work_dir / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            name = path.name.removesuffix(".json")
            # Without locks, several pulls share one state, and the first that ends removes it.
            by_age = kind == "fills" or (kind == "staging" and not cache.has_locks)
            if by_age and not all(map(is_old, [path, *path.rglob("*")])):
                continue
            if kind not in ("staging", "pulls") or not _is_locked(cache, name):
                yield Garbage(text.format(name), folder_size(path), path)


def _is_locked(cache: Cache, name: str) -> bool:
    with cache.try_lock(name) as is_free:
        return not is_free


def _records(folder: RepoDir) -> list[Record]:
    records = []
    for commit in folder.recorded_commits():
        with contextlib.suppress(ManifestError, OSError):
            records.append(folder.read_record(commit))
    return records


def delete_garbage(item: Garbage) -> int:
    """Delete the file or folder. Returns the freed bytes."""
    if item.path.is_dir():
        remove_tree(item.path)
    else:
        item.path.unlink(missing_ok=True)
    return item.size
