"""Making a revision of a managed cache visible, in an order that no reader can see half of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirror.manifests import render_tree
from mirror.sources.layout import RepoDir
from mirror.state import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.manifests import Record


def publish(root: Path, record: Record) -> None:
    """Link, list and record a revision whose blobs are all in place; its refs come last.

    Afterwards the folder is a complete cache to huggingface_hub as well: its tree file lists the
    wanted files alone, since `HF_HUB_OFFLINE=1` refuses a snapshot that lacks a listed one.
    """
    folder = RepoDir(root, record.repo, root / record.repo.folder_name)
    snapshot = folder.snapshot(record.commit_hash)
    for name, file in record.files.items():
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(folder.blobs / file.etag, link.parent))
    for path, body in (
        (folder.tree(record.commit_hash), render_tree(record.files.values())),
        (folder.record(record.commit_hash), record.render()),
        *((folder.ref(ref), record.commit_hash.encode()) for ref in record.refs),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, body)
