"""The reader's side of a partial file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.core.errors import BlobUnreadableError
from mirror.core.files import open_regular
from mirror.pull_through.fill_map import FillMap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class PartialPaths:
    """The paths of a partial file and of its map."""

    content: Path
    map: Path

    @classmethod
    def of(cls, work_dir: Path, repo_folder: str, etag: str) -> PartialPaths:
        """The paths in the work folder of a cache. `repo_folder` is the name of the repository's
        folder: a file of one repository is never served for another one."""
        folder = work_dir / "fills" / repo_folder.lower()
        return cls(folder / etag, folder / f"{etag}.map")


def open_for_writing(paths: PartialPaths, size: int) -> tuple[int, FillMap]:
    """The descriptor of a partial file, and its map: new ones, or those of an earlier filler.
    Raises OSError."""
    paths.content.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(paths.content, flags, 0o644)
    try:
        if os.fstat(descriptor).st_size != size:
            paths.map.unlink(missing_ok=True)
            os.ftruncate(descriptor, size)
        return descriptor, FillMap.open_or_create(paths.map, size)
    except BaseException:
        os.close(descriptor)
        raise


@dataclass(frozen=True, slots=True)
class PartialBlob:
    """A file that is still arriving. `request` is called with the offset of bytes that are missing;
    it does not block, and raises BlobUnreadableError if they cannot be had."""

    descriptor: int
    size: int
    map: FillMap
    path: str
    request: Callable[[int], None]

    @classmethod
    def open(
        cls, paths: PartialPaths, size: int, path: str, request: Callable[[int], None]
    ) -> PartialBlob:
        """Raises FileNotFoundError, other OSErrors, and ValueError for a map that is not of this
        version and size. `path` is the path in the repository."""
        fill_map = FillMap.open(paths.map, size)
        descriptor = open_regular(paths.content, follow=False)
        return cls(descriptor, size, fill_map, path, request)

    def ready(self, offset: int) -> int:
        try:
            count = self.map.ready(offset)
        except BlobUnreadableError as exc:
            raise BlobUnreadableError(self.path, exc.cause) from None
        if not count and offset < self.size:
            self.request(offset)
        return count

    def pread(self, offset: int, count: int) -> bytes:
        return os.pread(self.descriptor, count, offset)

    def fileno(self) -> int | None:
        return self.descriptor

    def redirect_url(self) -> str | None:
        return None

    def close(self) -> None:
        os.close(self.descriptor)
