"""What upstream said about revisions, written down: the trees and infos of commits, and refs.

It is kept in the work folder of the managed cache, `.hubmirror/upstream/<folder of the repo>/`:

  <commit>.json   a record (`mirror/core/record.py`) that wants no file: all files are in `left_out`
  refs.json       the commit of each revision that was resolved, and when (seconds since 1970)

A commit never changes, so its file is written once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from mirror.core.files import read_regular
from mirror.core.record import MAX_SIDE_FILE, ManifestError, Record
from mirror.core.repo import COMMIT_HASH
from mirror.derived.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.core.repo import Repo

_MAX_REFS_FILE = 4 * 1024 * 1024
_MAX_REVISIONS = 10_000
"""Revisions of a repository that are kept; the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The commit of a revision, and when upstream named it, in seconds since 1970."""

    commit_hash: str
    checked_at: float


@dataclass(frozen=True, slots=True)
class KnownRevisions:
    """The metadata of upstream in the work folder `root` of a managed cache."""

    root: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def record(self, repo: Repo, commit_hash: str) -> Record | None:
        """What upstream said about a commit; None if it was not asked, or the file is damaged."""
        if not COMMIT_HASH.fullmatch(commit_hash):
            return None
        try:
            body = read_regular(self._folder(repo) / f"{commit_hash}.json", MAX_SIDE_FILE)
            found = Record.parse(body)
        except (OSError, ManifestError):
            return None
        return found if (found.repo.key, found.commit_hash) == (repo.key, commit_hash) else None

    def put(self, record: Record) -> None:
        """Write down a commit. Raises OSError."""
        folder = self._folder(record.repo)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{record.commit_hash}.json", record.render())

    def resolved(self, repo: Repo) -> dict[str, Resolved]:
        """The commits of the revisions of a repository, by the names that clients use."""
        try:
            body = orjson.loads(read_regular(self._folder(repo) / "refs.json", _MAX_REFS_FILE))
        except (OSError, orjson.JSONDecodeError):
            return {}
        return {
            name: Resolved(commit, float(checked_at))
            for name, (commit, checked_at) in _pairs(body).items()
        }

    def resolve(self, repo: Repo, revision: str, commit_hash: str) -> None:
        """Write down that upstream named this commit now. Raises OSError."""
        with self._lock:
            known = self.resolved(repo)
            known.pop(revision, None)
            known[revision] = Resolved(commit_hash, time.time())
            rows = [(name, [one.commit_hash, one.checked_at]) for name, one in known.items()]
            folder = self._folder(repo)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "refs.json", orjson.dumps(dict(rows[-_MAX_REVISIONS:])))

    def forget(self, repo: Repo, revision: str) -> None:
        """Remove a revision that upstream does not have any more."""
        with self._lock, contextlib.suppress(OSError):
            known = self.resolved(repo)
            if known.pop(revision, None):
                rows = {name: [one.commit_hash, one.checked_at] for name, one in known.items()}
                write_atomically(self._folder(repo) / "refs.json", orjson.dumps(rows))

    def commits(self, repo: Repo) -> list[str]:
        """The commits that were written down."""
        names = (path.stem for path in self._folder(repo).glob("*.json"))
        return sorted(name for name in names if COMMIT_HASH.fullmatch(name))

    def _folder(self, repo: Repo) -> Path:
        return self.root / "upstream" / repo.folder_name.lower()


def _pairs(body: object) -> Mapping[str, tuple[str, float]]:
    """The valid entries of refs.json."""
    rows = body.items() if isinstance(body, dict) else ()
    return {
        name: (row[0], row[1])
        for name, row in rows
        if isinstance(row, list)
        and len(row) == 2
        and isinstance(row[0], str)
        and COMMIT_HASH.fullmatch(row[0])
        and type(row[1]) in (int, float)
    }
