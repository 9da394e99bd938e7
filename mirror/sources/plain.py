"""The files of a folder that no cache has named."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.core.errors import BlobUnreadableError, RequestError
from mirror.core.files import read_regular
from mirror.core.source import LocalFile
from mirror.core.tree import Tree, check_file_path, lfs_file
from mirror.derived.digests import DigestJob
from mirror.sources.scan import LfsRule, digested, files_below, moment

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime
    from pathlib import Path

    from mirror.derived.digests import Digests

_SKIPPED = frozenset({".cache/huggingface", ".hubmirror"})
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d{1,15})\n"
)

_LONGEST_POINTER = 200


@dataclass(frozen=True, slots=True)
class PlainFiles:
    """Files by path, and why others are not offered."""

    files: Mapping[str, LocalFile]
    absent: Mapping[str, str]
    last_modified: datetime
    rule: LfsRule | None = None

    @property
    def tree_id(self) -> str:
        """Git's id of the folder: the same files give the same anywhere."""
        return Tree({path: stored.file for path, stored in self.files.items()}).tree_id()

    @classmethod
    def read(
        cls,
        folder: Path,
        name: str,
        digests: Digests,
        skip: Collection[str] = (),
        before: PlainFiles | None = None,
    ) -> PlainFiles:
        """Raises DigestPendingError, naming `name`, and OSError. `skip` as `files_below` does.

        Files that are as they were `before` are not looked into again; that itself is returned
        where nothing changed.
        """
        root = os.path.realpath(folder, strict=True)
        rule = LfsRule.of(root)
        absent: dict[str, str] = {}
        found: dict[str, DigestJob | LocalFile] = {}
        newest, kept = 0, before.files if before and before.rule == rule else {}
        for path in files_below(root, _SKIPPED.union(skip)):
            try:
                check_file_path(path)
                location, size, mtime_ns = _follow(root, path)
                newest = max(newest, mtime_ns)
                found[path] = (
                    _unchanged(kept.get(path), location, size, mtime_ns)
                    or _pointed_at(root, path, location, size)
                    or by_rule(path, DigestJob(location, size, mtime_ns, "sha256"), rule)
                )
            except (_NotServed, RequestError) as exc:
                absent[path] = f"This mirror does not serve it: {exc}"
        files = _digested(found, name, digests)
        now = cls(files, absent, moment(newest / 1e9), rule)
        return before if now == before else now


def _digested(
    found: Mapping[str, DigestJob | LocalFile], name: str, digests: Digests
) -> dict[str, LocalFile]:
    wanted = {path: one for path, one in found.items() if isinstance(one, DigestJob)}
    files = {path: one for path, one in found.items() if isinstance(one, LocalFile)}
    found_digests = digests.each(name, wanted.values())
    for (path, want), digest in zip(wanted.items(), found_digests, strict=True):
        files[path] = stored_file(path, want, digest)
    return files


def stored_file(path: str, want: DigestJob, digest: str | BlobUnreadableError) -> LocalFile:
    """A file whose digest was asked for, and may be unknown since it cannot be read."""
    if isinstance(digest, BlobUnreadableError):
        return LocalFile.unreadable(path, want.location, want.size, digest.cause)
    return LocalFile(digested(path, want, digest), want.location, want.mtime_ns)


def by_rule(path: str, want: DigestJob, rule: LfsRule) -> DigestJob | LocalFile:
    """What is to be computed of a file; its entry where the file cannot be read."""
    try:
        return replace(want, kind=rule.kind(path, want.location, want.size))
    except OSError as exc:
        cause = exc.strerror or "it cannot be read"
        return LocalFile.unreadable(path, want.location, want.size, cause)


def _unchanged(kept: LocalFile | None, location: str, size: int, mtime_ns: int) -> LocalFile | None:
    """What is known of a file, where it is as it was."""
    if kept is None or kept.problem or kept.mtime_ns != mtime_ns:
        return None
    return kept if (kept.local_path, kept.file.size) == (location, size) else None


class _NotServed(Exception):
    """Why a file of the folder is not offered."""


def _follow(root: str, path: str) -> tuple[str, int, int]:
    """Where a file's bytes are, following links inside the folder; its size and mtime."""
    location = f"{root}/{path}"  # whose folders are not links
    try:
        found = os.lstat(location)
        if stat.S_ISREG(found.st_mode):
            return location, found.st_size, found.st_mtime_ns
        location = os.path.realpath(location, strict=True)
        found = os.stat(location)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise _NotServed("it is a link that leads to nothing.") from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise _NotServed("it is a link that leads back to itself.") from exc
        raise
    if not location.startswith(f"{root}{os.sep}"):
        raise _NotServed("it is a link that leaves the folder, which is not followed.")
    if not stat.S_ISREG(found.st_mode):
        raise _NotServed("it is a link to something other than a file.")
    return location, found.st_size, found.st_mtime_ns


def _pointed_at(root: str, path: str, location: str, size: int) -> LocalFile | None:
    """The LFS object that a git clone keeps for a pointer which was never checked out."""
    if size > _LONGEST_POINTER:
        return None
    try:
        match = _POINTER.fullmatch(read_regular(location, _LONGEST_POINTER))
    except OSError:
        return None
    if match is None:
        return None
    sha256, true_size = match[1].decode(), int(match[2])
    kept = os.path.join(root, ".git/lfs/objects", sha256[:2], sha256[2:4], sha256)
    if not os.path.isfile(kept) or os.path.getsize(kept) != true_size:
        raise _NotServed("it is a git-lfs pointer whose content was never fetched (git lfs pull).")
    return LocalFile(lfs_file(path, true_size, sha256), kept)
