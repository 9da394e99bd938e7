"""The files of a plain folder, which is not a cache."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.core.commit import Commit
from mirror.core.errors import BlobUnreadableError
from mirror.core.files import read_regular
from mirror.core.foreign_names import unfinished_path
from mirror.core.source import LocalFile
from mirror.core.tree import lfs_file, listed_path
from mirror.derived.digests import DigestJob
from mirror.derived.proofs import problem_of
from mirror.sources.lost import UNFINISHED, lost_shards, name_problem
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
_NO_CONTENT = "it is a git-lfs pointer without content: `git lfs pull` downloads it"


@dataclass(frozen=True, slots=True)
class PlainFiles:
    """The files by path. Those that cannot be served have a problem."""

    files: Mapping[str, LocalFile]
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
        found: dict[str, DigestJob | LocalFile] = {}
        unfinished: set[str] = set()
        newest, kept = 0, before.files if before and before.rule == rule else {}
        for path in paths:
            if final := unfinished_path(path):
                unfinished.add(listed_path(final))
                continue
            try:
                location, status = _follow(root, path)
            except _NotServedError as exc:
                listed = listed_path(path)
                found[listed] = LocalFile.unreadable(listed, f"{root}/{path}", 0, str(exc))
                continue
            newest = max(newest, status.st_mtime_ns)
            found[path] = _unchanged(kept.get(path), location, status) or _look_at(
                root, path, location, status, rule
            )
        _add_lost(root, found, unfinished)
        now = cls(_digested(found, name, digests), moment(newest / 1e9), rule)
        return before if now == before else now


def _look_at(
    root: str, path: str, location: str, status: os.stat_result, rule: LfsRule
) -> DigestJob | LocalFile:
    """The entry of a file, or the digest to compute for it."""
    size = status.st_size
    if pointed_at := _pointed_at(root, path, location, size):
        return pointed_at
    if problem := problem_of(path, location, status, None):
        return LocalFile.unreadable(path, location, size, problem)
    return by_rule(path, DigestJob(location, size, status.st_mtime_ns, "sha256"), rule)


def _add_lost(root: str, found: dict[str, DigestJob | LocalFile], unfinished: set[str]) -> None:
    """Add the files that belong to the repository and are not in the folder."""
    lost = dict.fromkeys(unfinished - found.keys(), UNFINISHED)
    locations = {path: f"{root}/{path}" for path in found}
    lost |= lost_shards({*found, *lost}, locations, is_whole=True)
    for path, reason in lost.items():
        found[path] = LocalFile.unreadable(path, f"{root}/{path}", 0, reason)


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


def _unchanged(kept: LocalFile | None, location: str, status: os.stat_result) -> LocalFile | None:
    """The previous entry of a file, if the file has not changed."""
    if kept is None or kept.problem or kept.mtime_ns != status.st_mtime_ns:
        return None
    return kept if (kept.local_path, kept.file.size) == (location, status.st_size) else None


class _NotServedError(Exception):
    """The reason why a file of the folder is not served."""


def _follow(root: str, path: str) -> tuple[str, os.stat_result]:
    """The real path of a file, and its status. Symlinks inside the folder are followed."""
    if problem := name_problem(path):
        raise _NotServedError(problem)
    location = f"{root}/{path}"  # only the last part of the path can be a symlink
    try:
        found = os.lstat(location)
        if stat.S_ISREG(found.st_mode):
            return location, found
        location = os.path.realpath(location, strict=True)
        found = os.stat(location)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise _NotServedError("it is a symlink to a path that does not exist") from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise _NotServedError("it is a symlink that points to itself") from exc
        raise
    if not location.startswith(f"{root}{os.sep}"):
        raise _NotServedError("it is a symlink to a path outside the folder")
    if not stat.S_ISREG(found.st_mode):
        raise _NotServedError("it is not a regular file")
    return location, found


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
        return LocalFile(lfs_file(path, true_size, sha256), location, problem=_NO_CONTENT)
    return LocalFile(lfs_file(path, true_size, sha256), kept)
