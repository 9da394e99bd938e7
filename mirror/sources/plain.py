"""The files of a plain folder, which is not a cache."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.core.commit import Commit
from mirror.core.errors import BlobUnreadableError, RequestError
from mirror.core.files import read_regular
from mirror.core.source import LocalFile
from mirror.core.tree import check_file_path, lfs_file
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
    """The served files by path, and the paths that are not served, each with the reason."""

    files: Mapping[str, LocalFile]
    absent: Mapping[str, str]
    last_modified: datetime
    rule: LfsRule | None = None

    def commit(self) -> Commit:
        """The commit of the folder: the same files have the same commit on every host."""
        return Commit.of_folder({path: stored.file for path, stored in self.files.items()})

    @classmethod
    def read(
        cls,
        folder: Path,
        name: str,
        digests: Digests,
        skip: Collection[str] = (),
        before: PlainFiles | None = None,
    ) -> PlainFiles:
        """Read a folder. Raises OSError, and DigestPendingError with `name` in its message. `skip`
        is passed to `files_below`.

        A file that has not changed since `before` is not read again. If no file has changed,
        `before` itself is returned.
        """
        root = os.path.realpath(folder, strict=True)
        paths = list(files_below(root, _SKIPPED.union(skip)))
        rule = LfsRule.of(root, paths)
        absent: dict[str, str] = {}
        found: dict[str, DigestJob | LocalFile] = {}
        newest, kept = 0, before.files if before and before.rule == rule else {}
        for path in paths:
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
                absent[path] = f"This mirror does not serve the file: {exc}"
        files = _digested(found, name, digests)
        now = cls(files, absent, moment(newest / 1e9), rule)
        return before if now == before else now


def _digested(
    found: Mapping[str, DigestJob | LocalFile], name: str, digests: Digests
) -> dict[str, LocalFile]:
    wanted = {path: job for path, job in found.items() if isinstance(job, DigestJob)}
    files = {path: file for path, file in found.items() if isinstance(file, LocalFile)}
    found_digests = digests.each(name, wanted.values())
    for (path, job), digest in zip(wanted.items(), found_digests, strict=True):
        files[path] = stored_file(path, job, digest)
    return files


def stored_file(path: str, want: DigestJob, digest: str | BlobUnreadableError) -> LocalFile:
    """A file with its computed digest, or an unreadable file if the digest is an error."""
    if isinstance(digest, BlobUnreadableError):
        return LocalFile.unreadable(path, want.location, want.size, digest.cause)
    return LocalFile(digested(path, want, digest), want.location, want.mtime_ns)


def by_rule(path: str, want: DigestJob, rule: LfsRule) -> DigestJob | LocalFile:
    """The digest to compute for a file. If the file cannot be read, its entry as an unreadable
    file."""
    try:
        return replace(want, kind=rule.kind(path, want.location, want.size))
    except OSError as exc:
        cause = exc.strerror or "it cannot be read"
        return LocalFile.unreadable(path, want.location, want.size, cause)


def _unchanged(kept: LocalFile | None, location: str, size: int, mtime_ns: int) -> LocalFile | None:
    """The previous entry of a file, if the file has not changed."""
    if kept is None or kept.problem or kept.mtime_ns != mtime_ns:
        return None
    return kept if (kept.local_path, kept.file.size) == (location, size) else None


class _NotServed(Exception):
    """The reason why a file of the folder is not served."""


def _follow(root: str, path: str) -> tuple[str, int, int]:
    """The real path of a file, its size and its mtime. Symlinks inside the folder are followed."""
    location = f"{root}/{path}"  # only the last part of the path can be a symlink
    try:
        found = os.lstat(location)
        if stat.S_ISREG(found.st_mode):
            return location, found.st_size, found.st_mtime_ns
        location = os.path.realpath(location, strict=True)
        found = os.stat(location)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise _NotServed("it is a symlink to a path that does not exist.") from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise _NotServed("it is a symlink that points to itself.") from exc
        raise
    if not location.startswith(f"{root}{os.sep}"):
        raise _NotServed("it is a symlink to a path outside the folder.")
    if not stat.S_ISREG(found.st_mode):
        raise _NotServed("it is a symlink to a path that is not a regular file.")
    return location, found.st_size, found.st_mtime_ns


def _pointed_at(root: str, path: str, location: str, size: int) -> LocalFile | None:
    """The LFS object in the git clone, if the file is an LFS pointer that is not checked out."""
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
        raise _NotServed("it is a git-lfs pointer without content: `git lfs pull` downloads it.")
    return LocalFile(lfs_file(path, true_size, sha256), kept)
