"""Makes a bare git repository of the revisions of a hub repository, from the files and the commit
objects. LFS files become pointers, so that it is small.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import NotOfferedError, UnavailableError
from mirror.core.tree import Tree, git_id, lfs_pointer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.core.repo import Repo
    from mirror.core.source import Snapshot, StoredFile

_MAX_BYTES = 2 * 1024 * 1024 * 1024
_MAX_FILES = 200_000
_UNUSED_S = 24 * 3600.0
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"


def why_not(snapshot: Snapshot) -> str:
    """The reason why a revision cannot be offered by git, with the next step; empty if it can."""
    pull = f"Ask the mirror's operator to run `hubmirror pull {snapshot.repo}`"
    if snapshot.commit is None:
        return f"This mirror does not have the commit object of {snapshot.repo}. {pull}."
    if snapshot.absent or not snapshot.whole:
        return (
            f"This mirror has a part of the files of {snapshot.repo}, and git needs all. {pull} "
            "without --include and --exclude."
        )
    files = {path: stored.file for path, stored in snapshot.files.items()}
    if problem := snapshot.commit.problem(snapshot.commit_hash, files):
        return f"{snapshot.repo} is not offered by git: {problem}. {pull}."
    if any(
        git_id("blob", lfs_pointer(one.lfs_sha256, one.size)) != one.blob_id
        for one in files.values()
        if one.lfs_sha256
    ):
        return f"{snapshot.repo} has LFS pointers of a form that this mirror cannot make again."
    plain = sum(one.size for one in files.values() if not one.lfs_sha256)
    if plain > _MAX_BYTES or len(files) > _MAX_FILES:
        return f"{snapshot.repo} is too large for git. Download it with `hf download`."
    return ""


def view(
    folder: Path, repo: Repo, head: tuple[str, Snapshot], revisions: Mapping[str, Snapshot]
) -> Path:
    """The bare repository with the refs `revisions`, below `folder`; made if it is not there.

    `head` is the ref of `HEAD`, which may be empty, and its snapshot. Raises NotOfferedError if
    `HEAD` cannot be offered; other refs are then left out.
    """
    ref, snapshot = head
    if reason := why_not(snapshot):
        raise NotOfferedError(reason)
    offered = {name: one for name, one in revisions.items() if not why_not(one)}
    refs = {name: one.commit_hash for name, one in sorted(offered.items())}
    key = repr((str(repo), ref, snapshot.commit_hash, refs)).encode()
    place = folder / repo.folder_name / hashlib.sha256(key).hexdigest()[:32]
    if place.is_dir():
        with contextlib.suppress(OSError):
            os.utime(place)
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_unused(place.parent)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
        try:
            _write(made, ref, snapshot, offered)
            with contextlib.suppress(OSError):  # another process was faster
                made.rename(place)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as exc:
        raise UnavailableError(f"The mirror cannot write a git repository: {exc.strerror}") from exc
    return place


def _remove_unused(parent: Path) -> None:
    for other in parent.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(other, ignore_errors=True)


def _write(folder: Path, ref: str, head: Snapshot, revisions: Mapping[str, Snapshot]) -> None:
    snapshots = {one.commit_hash: one for one in (head, *revisions.values())}
    for one in snapshots.values():
        _write_revision(folder / "objects", one)
    (folder / "objects").mkdir(exist_ok=True)
    (folder / "refs").mkdir()
    (folder / "config").write_text(_CONFIG)
    rows = (f"{one.commit_hash} {name}\n" for name, one in revisions.items())
    (folder / "packed-refs").write_text("".join(rows))
    shallow = [
        commit for commit, one in sorted(snapshots.items()) if one.commit and one.commit.has_parents
    ]
    if shallow:
        (folder / "shallow").write_text("".join(f"{commit}\n" for commit in shallow))
    (folder / "HEAD").write_text(f"ref: {ref}\n" if ref else f"{head.commit_hash}\n")


def _write_revision(objects: Path, snapshot: Snapshot) -> None:
    if snapshot.commit is None:
        return
    for stored in snapshot.files.values():
        file = stored.file
        body = lfs_pointer(file.lfs_sha256, file.size) if file.lfs_sha256 else _read(stored)
        _write_object(objects, "blob", body, file.blob_id)
    files = {path: stored.file for path, stored in snapshot.files.items()}
    tree = Tree(files, snapshot.commit.modes)
    for path in tree.folders():
        _write_object(objects, "tree", tree.body(path), tree.tree_id(path))
    _write_object(objects, "commit", snapshot.commit.body, snapshot.commit_hash)


def _read(stored: StoredFile) -> bytes:
    with contextlib.closing(stored.open()) as blob:
        return blob.pread(0, blob.size)


def _write_object(objects: Path, kind: str, body: bytes, name: str) -> None:
    """Write a loose object. Raises UnavailableError if the body does not have the id."""
    place = objects / name[:2] / name[2:]
    if place.exists():
        return
    if git_id(kind, body) != name:
        raise UnavailableError(
            f"A {kind} of git does not have its id {name}. Try again in a moment"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(zlib.compress(b"%s %d\0" % (kind.encode(), len(body)) + body, 1))
