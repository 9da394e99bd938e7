"""The files below a folder, the rule for which of them are LFS files, and their entries."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mirror.core.files import is_outage, open_regular, read_regular
from mirror.core.foreign_names import is_system_file
from mirror.core.tree import MAX_DEPTH, RepoFile, lfs_file
from mirror.sources.git_attributes import AttributesFile, GitAttributes

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from mirror.derived.digests import DigestJob, Kind

_MAX_ATTRIBUTES = 1024 * 1024
_MAX_ATTRIBUTES_FILES = 1000
_ATTRIBUTES = ".gitattributes"
_LAST_SECOND = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_LFS_SIZE = 10 * 1000 * 1000
_GIT_LOOKS_AT = 8000


def files_below(folder: str, skip: Container[str] = (), keep: Container[str] = ()) -> Iterator[str]:
    """Paths below a folder, relative to it, without `.git`, the paths in `skip`, and what operating
    systems leave behind, unless it is a symlink or in `keep`.

    Everything that is not a folder is yielded; symlinks are not followed. If a folder is deeper
    than MAX_DEPTH, the folder is yielded, and its files are not. Raises OSError if a folder cannot
    be listed.
    """
    pending = [""]
    while pending:
        parent = pending.pop()
        with os.scandir(os.path.join(folder, parent)) as entries:
            for entry in entries:
                path = f"{parent}{entry.name}"
                if entry.name == ".git" or path in skip:
                    continue
                if is_system_file(entry.name) and path not in keep and not entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False) and path.count("/") < MAX_DEPTH:
                    pending.append(f"{path}/")
                else:
                    yield path


def folder_stamps(root: str) -> tuple[tuple[str, int, int], ...]:
    """A folder and every folder below it, each with its mtime and inode. These change when a name
    is added, removed or replaced. Symlinks are not followed. Raises OSError, except for folders
    that do not exist any more."""
    found, pending = [], [root]
    while pending:
        folder = pending.pop()
        try:
            here = os.stat(folder)
            with os.scandir(folder) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        found.append((folder, here.st_mtime_ns, here.st_ino))
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class LfsRule:
    """The rule for which files are LFS files: that of `.gitattributes`, else that of the hub.

    A file that is larger than the hub's limit for regular files (10 MB) is always an LFS file. If
    the folder has no `.gitattributes` and none below it names the file, a file is an LFS file if
    git considers it binary.
    """

    attributes: GitAttributes

    @classmethod
    def of(cls, folder: str, paths: Iterable[str]) -> LfsRule:
        """The rule of a folder with these files. Raises OSError if its disk fails."""
        found = {}
        names = (path for path in paths if path.rpartition("/")[2] == _ATTRIBUTES)
        for path in heapq.nsmallest(_MAX_ATTRIBUTES_FILES, names, key=_depth):
            try:
                body = read_regular(os.path.join(folder, path), _MAX_ATTRIBUTES)
            except OSError as exc:
                if is_outage(exc):
                    raise
                continue
            found[path.rpartition("/")[0]] = AttributesFile.parse(body)
        return cls(GitAttributes(found))

    def kind(self, path: str, location: str, size: int) -> Kind:
        """The kind of the digest that is the etag of the file. Raises OSError."""
        if size > _LFS_SIZE:
            return "sha256"
        value = self.attributes.filter_of(path)
        if value is None and "" not in self.attributes.files:
            is_lfs = _is_binary(location)
        else:
            is_lfs = value == "lfs"
        return "sha256" if is_lfs else "git-sha1"


def moment(seconds: float) -> datetime:
    """The time of a file in UTC. A time that clients cannot read is replaced by the nearest time
    that they can read."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), UTC)


def digested(path: str, wanted: DigestJob, digest: str) -> RepoFile:
    """The entry of a file from its computed digest."""
    if wanted.kind == "sha256":
        return lfs_file(path, wanted.size, digest)
    return RepoFile(path, wanted.size, digest)


def _depth(path: str) -> tuple[int, str]:
    return path.count("/"), path


def _is_binary(location: str) -> bool:
    with open(open_regular(location), "rb") as file:
        return b"\0" in file.read(_GIT_LOOKS_AT)
