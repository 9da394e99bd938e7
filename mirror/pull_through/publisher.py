"""Publishes what was fetched: a revision with the files that are here becomes a record."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mirror.core.errors import UpstreamError
from mirror.core.tree import blob_hash
from mirror.store.publish import publish
from mirror.sync.completeness import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirror.core.repo import Repo
    from mirror.core.tree import RepoFile
    from mirror.pull_through.known_revisions import KnownRevisions
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache
    from mirror.sync.upstream import Head, Upstream

log = logging.getLogger("hubmirror")

_EMPTY = frozenset({blob_hash(length * "0", 0).hexdigest() for length in (40, 64)})
"""The digests of a file without bytes, which huggingface_hub never requests."""

_QUIET_S = 1.0
"""A revision is published when no file of it arrived for so long …"""

_LONGEST_S = 30.0
"""… or so long after its first file arrived."""

_POLL_INTERVAL_S = 0.2


class Publisher:
    """Writes the records of revisions, a moment after their files have arrived.

    The record of a revision names the files that are here as wanted, and the others as left out. A
    ref moves to the new commit only when all files that were here of the old one are here of the
    new one, if the new one has them: a mirror without upstream never serves less than before.
    """

    def __init__(
        self, cache: Cache, known: KnownRevisions, upstream_of: Callable[[Repo], Upstream]
    ) -> None:
        self._cache = cache
        self._known = known
        self._upstream_of = upstream_of
        self._pending: dict[tuple[str, str], tuple[Head, float, float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def note(self, head: Head) -> None:
        """A file of a commit has arrived."""
        now, key = time.monotonic(), (head.repo.key, head.commit_hash)
        with self._lock:
            first = self._pending.get(key, (head, now, now))[1]
            self._pending[key] = (head, first, now)

    def close(self) -> None:
        """Publish what is pending, and stop."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closed.wait(_POLL_INTERVAL_S):
            self._publish_due()
        self._publish_due(everything=True)

    def _publish_due(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            due = [
                key
                for key, (_, first, last) in self._pending.items()
                if everything or now - last > _QUIET_S or now - first > _LONGEST_S
            ]
            heads = [self._pending.pop(key)[0] for key in due]
        for head in heads:
            try:
                self._publish(head)
            except OSError as exc:
                log.exception("%s cannot be published: %s.", head.repo, exc.strerror)
            except Exception:
                log.exception("%s could not be published.", head.repo)

    def _publish(self, head: Head) -> None:
        folder = self._cache.folder(head.repo)
        with self._cache.lock(folder.repo, lambda: None):
            record = read_record(folder, head.commit_hash)
            base = record or self._known.record(head.repo, head.commit_hash)
            if base is None:
                return
            tree = {**base.files, **base.left_out}
            for file in tree.values():
                _add_if_empty(folder, file)
            here = {path: file for path, file in tree.items() if self._cache.has(folder, file)}
            if not here or (record is not None and not here.keys() > record.files.keys()):
                return  # nothing new is here, or a wanted file is missing
            refs = self._refs(folder, head, here)
            new = replace(
                base,
                repo=folder.repo,
                files=here,
                left_out={path: file for path, file in tree.items() if path not in here},
                refs=tuple(dict.fromkeys((*base.refs, *refs))),
                pulled_at=datetime.now(UTC),
            )
            publish(self._cache.root, new, refs)

    def _refs(self, folder: RepoDir, head: Head, here: Mapping[str, object]) -> list[str]:
        """The refs that point to the commit upstream, and may point to it here."""
        names = [
            name
            for name, one in self._known.resolved(head.repo).items()
            if one.commit_hash == head.commit_hash
        ]
        found = []
        for revision in names:
            try:
                ref = self._upstream_of(head.repo).ref_name(head, revision)
            except (UpstreamError, ValueError):
                continue
            if ref and self._is_no_loss(folder, ref, head.commit_hash, here):
                found.append(ref)
        return found

    def _is_no_loss(
        self, folder: RepoDir, ref: str, commit_hash: str, here: Mapping[str, object]
    ) -> bool:
        """Whether all files of the commit to which the ref points now are here of the new one."""
        current = folder.points_to(ref)
        if current in ("", commit_hash):
            return True
        old, new = read_record(folder, current), self._known.record(folder.repo, commit_hash)
        if old is None or new is None:
            return old is None
        return all(path in here for path in old.files if path in new.left_out)


def _add_if_empty(folder: RepoDir, file: RepoFile) -> None:
    """Create the blob of a file without bytes. Raises OSError."""
    if file.size == 0 and file.etag in _EMPTY:
        folder.blobs.mkdir(parents=True, exist_ok=True)
        (folder.blobs / file.etag).touch()
