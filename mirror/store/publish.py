"""Making a revision of a managed cache visible, in an order that no reader can see half of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirror.core.record import render_tree
from mirror.derived.state import sync_folder, write_atomically
from mirror.sources.repo_dir import RepoDir

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mirror.core.record import Record


def publish(root: Path, record: Record, refs: Iterable[str] | None = None) -> None:
    """List, link and record a revision whose blobs are all in place; its refs come last: those of
    the record, or `refs`.

    Afterwards the folder is a complete cache to huggingface_hub as well: its tree file lists the
    wanted files alone, since `HF_HUB_OFFLINE=1` refuses a snapshot that lacks a listed one. That
    file comes first where there was none, so that a snapshot which is linked in part is refused
    too; one that grows is listed after its links. Each step is on the disk before the next.
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
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    for one in {snapshot, snapshot.parent, *(link.parent for link in links)}:
        sync_folder(one)
    if folder.blobs.is_dir():
        sync_folder(folder.blobs)
    _write(tree, body)
    _write(folder.record(record.commit_hash), record.render())
    for ref in record.refs if refs is None else refs:
        _write(folder.ref(ref), record.commit_hash.encode())


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, body)
    sync_folder(path.parent)
