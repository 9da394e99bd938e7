"""A BentoML model store as a source: each entry is a revision of its original repository."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import (
    RepositoryNotFoundError,
    RevisionIncompleteError,
    RevisionNotFoundError,
)
from mirror.core.presence import Presence
from mirror.core.repo import COMMIT_HASH, find_commit
from mirror.core.source import Layout, LocalFile, Snapshot, disk_errors, refuse_corrupt
from mirror.derived.proofs import CorruptFiles
from mirror.sources.bento_index import BentoIndex
from mirror.sources.plain import PlainFiles
from mirror.sources.snapshot_cache import TTL_S, SnapshotCache

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from mirror.core.repo import Repo
    from mirror.core.tree import RepoFile
    from mirror.derived.digests import Digests
    from mirror.sources.bento_entry import Entry

_DERIVED = (
    "the repo id is derived from the tag {}; a tag does not keep upper case letters and underscores"
)


class BentoStore:
    """The entries below `models/` of a BENTOML_HOME."""

    def __init__(
        self, home: Path, digests: Digests, *, label: str = "bento", ttl_s: float = TTL_S
    ) -> None:
        self.label = label
        self.layout = Layout.BENTO_STORE
        self.root = Path(os.path.realpath(home))
        self._digests = digests
        self._corrupt = CorruptFiles(digests.state, self.root)
        self._recent = SnapshotCache(ttl_s)
        self._index = BentoIndex(self.root, ttl_s)
        self.presence = Presence(self.root, "The Bento store", self._has_content)

    def repos(self) -> list[Repo]:
        found: dict[str, Repo] = {}
        for entry in sorted(self.entries(), key=lambda entry: entry.derived):
            found.setdefault(entry.repo.key, entry.repo)
        return list(found.values())

    def refs(self, repo: Repo) -> Mapping[str, str]:
        """The revision names of all entries, and `main` for the newest entry without a name."""
        refs: dict[str, str] = {}
        for entry in sorted(self._of(repo), key=lambda entry: (entry.is_latest, entry.created_at)):
            name = entry.revision if not COMMIT_HASH.fullmatch(entry.revision) else ""
            full = name if name.startswith("refs/") else f"refs/heads/{name or 'main'}"
            refs[full] = self._commit(entry)
        return refs

    def commits(self, repo: Repo) -> list[str]:
        ordered = sorted(self._of(repo), key=lambda entry: entry.created_at)
        return list(dict.fromkeys(self._commit(entry) for entry in ordered))

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        entries = self._of(repo)
        commit = find_commit(revision, self.refs(repo), self.commits(repo))
        damage = None
        for entry in entries:
            if commit is not None and self._commit(entry) == commit:
                try:
                    return self._read(entry)
                except RevisionIncompleteError as exc:
                    damage = exc  # another entry of the same commit may be complete
        raise damage or RevisionNotFoundError(repo, revision)

    def stamp(self, repo: Repo) -> Hashable:
        return tuple(self._stamp(entry) for entry in self._of(repo))

    def identities(self) -> list[str]:
        return []

    def unrecorded(self) -> list[Repo]:
        return []

    def entries(self) -> Sequence[Entry]:
        """All valid entries, by tag, without their lists of files."""
        with disk_errors("The Bento store"):
            found = self._index.get().entries
        if found:
            self.presence.note_content()
        self.presence.check()
        return found

    def _has_content(self) -> bool:
        return any((self.root / "models").iterdir())

    def _of(self, repo: Repo) -> tuple[Entry, ...]:
        with disk_errors("The Bento store"):
            found = self._index.of(repo)
        if not found:
            self.presence.check()
            raise RepositoryNotFoundError(repo)
        self.presence.note_content()
        return found

    def _stamp(self, entry: Entry) -> Hashable:
        """A value that changes with the files of an entry, also with files in its subfolders."""
        files = self._index.files(entry)
        if files is None:
            snapshot = self._read(entry)
            return repr(entry), snapshot.commit_hash, tuple(sorted(snapshot.files))
        folders = {entry.folder, *((entry.folder / path).parent for path in files)}
        return (repr(entry), *(_mtime_ns(folder) for folder in sorted(folders)))

    def _commit(self, entry: Entry) -> str:
        return entry.commit_hash or self._read(entry).commit_hash

    def _read(self, entry: Entry) -> Snapshot:
        return self._recent.get(entry.folder, lambda: self._read_now(entry))

    def _read_now(self, entry: Entry) -> Snapshot:
        with disk_errors(str(entry.repo)):
            files = self._index.files(entry)
            found = (
                PlainFiles.read(entry.folder, str(entry.repo), self._digests, ("model.yaml",))
                if files is None
                else _as_written(replace(entry, files=files), files)
            )
        commit = None if entry.commit_hash else found.commit()
        return Snapshot(
            repo=entry.repo,
            commit_hash=commit.commit_hash if commit else entry.commit_hash,
            commit=commit,
            files=refuse_corrupt(found.files, self._corrupt.find()),
            last_modified=entry.created_at,
            # An entry can hold only the files that OpenLLM needs to start a model.
            whole=entry.whole or not entry.commit_hash,
            note=_DERIVED.format(entry.tag) if entry.derived else "",
        )


def _as_written(entry: Entry, files: Mapping[str, RepoFile]) -> PlainFiles:
    """The files that hubmirror wrote into an entry. Raises RevisionIncompleteError if a file has
    changed since then."""
    if changed := entry.changes():
        path = next(iter(changed))
        raise RevisionIncompleteError(
            f"{entry.repo} at {entry.commit_hash} cannot be served: {path} {changed[path]} in the "
            f"Bento store's entry {entry.tag}. Ask the mirror's operator to write the entry again "
            "with `hubmirror bento add`.",
            brief=f"{len(changed)} of {len(files)} files changed in the entry {entry.tag}",
            corrupt=True,
            absent=changed,
        )
    stored = {path: LocalFile(file, str(entry.folder / path)) for path, file in files.items()}
    return PlainFiles(stored, entry.created_at)


def _mtime_ns(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0
