"""The xet hashes of files: from upstream, else computed locally."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.core.errors import BlobUnreadableError, DigestPendingError, XetHashNotFoundError
from mirror.derived.digests import DigestJob

if TYPE_CHECKING:
    from mirror.core.source import Snapshot, StoredFile
    from mirror.core.tree import RepoFile
    from mirror.derived.digests import Digests


@dataclass(frozen=True, slots=True)
class XetHashes:
    """Xet hashes of stored files. Only LFS files have xet hashes, as on the real hub.

    `min_size`, in bytes, and `advertise` say which hashes are sent to clients. A request with a
    hash that the client knows from the real hub is always answered.
    """

    digests: Digests
    min_size: int = 0
    advertise: bool = True

    def entry(self, stored: StoredFile) -> RepoFile:
        """A file as clients see it: with its xet hash if it is known and advertised.

        A file with a problem has none: the error of a Xet request does not name the problem.
        """
        is_advertised = self._is_advertised(stored.file) and not stored.problem
        return replace(stored.file, xet_hash=self._known(stored) if is_advertised else None)

    def want(self, stored: StoredFile) -> None:
        """Start to compute the hash of a file, if it is advertised and not known."""
        if stored.problem or not self._is_advertised(stored.file) or self._known(stored):
            return
        if wanted := _wanted(stored):
            self.digests.start(wanted)

    def _is_advertised(self, file: RepoFile) -> bool:
        has_hash = file.lfs_sha256 is not None and file.size > 0
        return self.advertise and has_hash and file.size >= self.min_size

    def find(self, snapshot: Snapshot, xet_hash: str, last: int) -> StoredFile:
        """The file of a commit that has the hash; the client asks for bytes up to `last`.

        Raises XetHashNotFoundError; DigestPendingError while hashes of possible files are being
        computed; and BlobUnreadableError if they cannot be computed. If only one file is possible,
        it is returned before its hash is computed.
        """
        untold: list[StoredFile] = []
        for stored in snapshot.files.values():
            if stored.file.lfs_sha256 is not None:
                if self._known(stored) == xet_hash:
                    return stored
                if not stored.file.xet_hash and stored.file.size > last:
                    untold.append(stored)
        unknown = [stored for stored in untold if self._known(stored) is None]
        if not unknown:
            raise XetHashNotFoundError(snapshot.repo, snapshot.commit_hash, xet_hash)
        is_started = self._start(sorted(unknown, key=lambda stored: stored.file.size != last + 1))
        is_one = len({stored.file.etag for stored in untold}) == 1
        if is_one and snapshot.whole and not snapshot.absent:
            return unknown[0]
        if not is_started:
            raise BlobUnreadableError(unknown[0].file.path, "its xet hash cannot be computed")
        raise DigestPendingError(str(snapshot.repo), sum(one.file.size for one in unknown))

    def _start(self, files: list[StoredFile]) -> bool:
        """Start to compute hashes in this order. Returns False if all of them have failed."""
        wanted = [one for one in map(_wanted, files) if one]
        running = [self.digests.start(one, urgent=True) for one in wanted]
        return not all(future.done() and future.exception() for future in running)

    def _known(self, stored: StoredFile) -> str | None:
        if stored.file.xet_hash:
            return stored.file.xet_hash
        wanted = _wanted(stored)
        return self.digests.known(wanted) if wanted else None


def _wanted(stored: StoredFile) -> DigestJob | None:
    """The digest to compute; None if the file does not exist or has a wrong size."""
    if stored.local_path is None:
        return None
    try:
        found = os.stat(stored.local_path, follow_symlinks=False)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_size != stored.file.size:
        return None
    return DigestJob(stored.local_path, found.st_size, found.st_mtime_ns, "xet")
