"""The files below a folder, which of them git would keep by LFS, and their entries."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.trees import RepoFile, lfs_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mirror.digests import Kind, Wanted

_LFS_SIZE = 10 * 1000 * 1000
_GIT_LOOKS_AT = 8000


def files_below(folder: str, skip: Collection[str] = ()) -> Iterator[str]:
    """Paths below a folder, relative to it, without git's own folders and the paths in `skip`.

    Links are yielded, never followed. Raises OSError where a folder cannot be listed.
    """
    pending = [""]
    while pending:
        parent = pending.pop()
        with os.scandir(os.path.join(folder, parent)) as entries:
            for entry in entries:
                path = f"{parent}{entry.name}"
                if entry.name == ".git" or path in skip or not _is_unicode(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{path}/")
                elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
                    yield path


def _is_unicode(name: str) -> bool:
    """Whether a name can be sent at all; the hub takes no other."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


@dataclass(frozen=True, slots=True)
class LfsRule:
    """Whether a file is kept by LFS: as `.gitattributes` says, else as git and the hub would.

    Without that file, a file is kept by LFS when git would call it binary, or when it is larger
    than what the hub takes as a regular file (10 MB).
    """

    patterns: tuple[str, ...] | None

    @classmethod
    def of(cls, folder: str) -> LfsRule:
        try:
            lines = (Path(folder) / ".gitattributes").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return cls(None)
        words = [line.split() for line in lines if not line.startswith("#")]
        return cls(tuple(line[0] for line in words if "filter=lfs" in line[1:]))

    def kind(self, path: str, location: str, size: int) -> Kind:
        """The digest that names the file."""
        if size > _LFS_SIZE:
            return "sha256"
        if self.patterns is None:
            return "sha256" if _is_binary(location) else "git-sha1"
        return "sha256" if any(_matches(path, one) for one in self.patterns) else "git-sha1"


def digested(path: str, wanted: Wanted, digest: str) -> RepoFile:
    """The entry of a file whose digest was computed here."""
    if wanted.kind == "sha256":
        return lfs_file(path, wanted.size, digest)
    return RepoFile(path, wanted.size, digest)


def _matches(path: str, pattern: str) -> bool:
    if "/" in pattern:
        return fnmatch.fnmatchcase(path, pattern.removeprefix("/").replace("**/", "*"))
    return fnmatch.fnmatchcase(os.path.basename(path), pattern)


def _is_binary(location: str) -> bool:
    with open(location, "rb") as file:
        return b"\0" in file.read(_GIT_LOOKS_AT)
