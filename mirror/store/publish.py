"""Publishes a revision in a managed cache, in an order in which readers never see a part of it."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

from mirror.core.record import render_tree
from mirror.derived.state import sync_folder, write_atomically
from mirror.sources.repo_dir import RepoDir

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mirror.core.record import Record


def publish(root: Path, record: Record, refs: Iterable[str] | None = None) -> None:
    """Write the tree file, the snapshot's links, the record, and last the refs of a revision.

    All its blobs must be in place. `refs` replaces the refs of the record. Each step is synced to
    disk before the next step starts.

    The folder is then also a complete cache for huggingface_hub. The tree file lists only the
    wanted files, because `snapshot_download` with `HF_HUB_OFFLINE=1` refuses a snapshot that lacks
    a listed file. A new tree file is written before the links, so that huggingface_hub also
    refuses a snapshot with a part of its links. A revision that grows gets its new tree file after
    its links.
    """
    folder = RepoDir(root, record.repo, root / record.repo.folder_name)
    snapshot = folder.snapshot(record.commit_hash)
    links = {snapshot / name: folder.blobs / file.etag for name, file in record.files.items()}
    tree, body = folder.tree(record.commit_hash), render_tree(record.files.values())
    if not tree.exists():
        _write(tree, body)
    snapshot.mkdir(parents=True, exist_ok=True)
    for link, blob in links.items():
        target = os.path.relpath(blob, link.parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() or os.readlink(link) != target:
            if link.is_dir() and not link.is_symlink():
                link.rmdir()
            _link(link, target)
    for parent in {snapshot, snapshot.parent, *(link.parent for link in links)}:
        sync_folder(parent)
    if folder.blobs.is_dir():
        sync_folder(folder.blobs)
    _write(tree, body)
    _write(folder.record(record.commit_hash), record.render())
    for ref in record.refs if refs is None else refs:
        _write(folder.ref(ref), record.commit_hash.encode())


def _link(link: Path, target: str) -> None:
    """Create or replace a symlink in one step: another pull may do the same."""
    temporary = link.with_name(f".{uuid.uuid4().hex}")
    temporary.symlink_to(target)
    temporary.replace(link)


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, body)
    sync_folder(path.parent)
