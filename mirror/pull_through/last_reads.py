"""When each revision was last read: the mtime of a file for each revision.

The files are `.hubmirror/reads/<folder of the repository>/<commit hash>` in the managed cache.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TOUCH_EVERY_S = 60.0
_MAX_REMEMBERED = 10_000


class LastReads:
    """The times of the last reads in the work folder of a managed cache."""

    def __init__(self, work_dir: Path) -> None:
        self._root = work_dir / "reads"
        self._touched: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def note(self, repo_folder: str, commit_hash: str) -> None:
        """A file of the revision is read now. It is written down at most once in a minute; a
        folder that cannot be written is ignored."""
        key, now = (repo_folder, commit_hash), time.monotonic()
        with self._lock:
            if now - self._touched.get(key, -_TOUCH_EVERY_S) < _TOUCH_EVERY_S:
                return
            if len(self._touched) > _MAX_REMEMBERED:
                self._touched.clear()
            self._touched[key] = now
        path = self._path(repo_folder, commit_hash)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:
            return

    def of(self, repo_folder: str, commit_hash: str) -> float:
        """The time of the last read, in seconds since 1970; 0 if it was never read."""
        try:
            return self._path(repo_folder, commit_hash).stat().st_mtime
        except OSError:
            return 0.0

    def _path(self, repo_folder: str, commit_hash: str) -> Path:
        return self._root / repo_folder.lower() / commit_hash
