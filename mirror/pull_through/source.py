"""A source that fetches from upstream what the other sources lack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.core.errors import (
    BlobUnreadableError,
    DigestPendingError,
    NotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    UnavailableError,
    UpstreamPendingError,
)
from mirror.core.repo import COMMIT_HASH
from mirror.core.source import Layout, LocalFile, Snapshot, client_token
from mirror.pull_through.fill_map import BLOCK
from mirror.pull_through.last_reads import LastReads
from mirror.pull_through.metrics import OPENED
from mirror.pull_through.partial_blob import PartialBlob, PartialPaths
from mirror.pull_through.wire import Question
from mirror.sources.snapshot_cache import SnapshotCache
from mirror.sync.completeness import read_record

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from mirror.core.blob import Blob
    from mirror.core.record import Record
    from mirror.core.repo import Repo
    from mirror.core.source import Source, StoredFile
    from mirror.core.tree import RepoFile
    from mirror.pull_through.client import FillerClient
    from mirror.pull_through.known_revisions import KnownRevisions
    from mirror.sources.first_found import FirstFound
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache
    from mirror.sync.rules import Rules

_SNAPSHOT_S = 60.0
"""How long the files of a commit are kept in memory: they do not change."""


class PullThrough:
    """The local sources, and what upstream has beside them.

    - A repository that is in a folder, a Bento store or a foreign cache is served from there.
    - A branch of any other repository is the commit that upstream names; upstream is asked again
      after some time.
    - The files of a commit are those of upstream's tree. A file whose blob is not in the managed
      cache is fetched when it is opened.
    """

    label = "all sources and upstream"
    layout = Layout.OTHER
    root = None

    def __init__(
        self,
        local: FirstFound,
        cache: Cache,
        known: KnownRevisions,
        client: FillerClient,
        rules: Rules,
        *,
        forwards_tokens: bool = False,
    ) -> None:
        self.sources = local.sources
        self._local = local
        self._cache = cache
        self._known = known
        self._client = client
        self._rules = rules
        self._reads = LastReads(cache.work_dir)
        self._forwards_tokens = forwards_tokens
        self._recent = SnapshotCache(_SNAPSHOT_S)

    def repos(self) -> list[Repo]:
        """The repositories that are here; upstream is not listed."""
        return self._local.repos()

    def commits(self, repo: Repo) -> list[str]:
        here = set(self._known.commits(repo))
        try:
            here.update(self._local.commits(repo))
        except NotFoundError:
            if not here:
                raise
        return sorted(here)

    def refs(self, repo: Repo) -> Mapping[str, str]:
        """Upstream's refs; those that are here if the repository is not upstream's, or upstream
        cannot be asked."""
        if self._is_local(repo):
            return self._local.refs(repo)
        try:
            return self._client.refs(self._question(repo))
        except UpstreamPendingError:
            raise
        except UnavailableError:
            return self._local.refs(repo)

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        if self._is_local(repo):
            try:
                return self._local.snapshot(repo, revision)
            except RevisionNotFoundError:
                pass  # upstream may have it
        stale = ""
        if not self._is_here(repo):
            self._rules.check_repo(repo)
        if COMMIT_HASH.fullmatch(revision):
            commit_hash = revision
        else:
            found = self._client.resolve(
                self._question(repo, "main" if revision == "HEAD" else revision)
            )
            commit_hash, stale = found.commit_hash, found.stale
        snapshot = self._at(repo, commit_hash)
        self._check_access(snapshot)
        return replace(snapshot, stale=stale) if stale else snapshot

    def stamp(self, repo: Repo) -> Hashable:
        return self._local.stamp(repo)

    def identities(self) -> Sequence[str]:
        return self._local.identities()

    def unrecorded(self) -> Sequence[Repo]:
        return [repo for repo in self._local.unrecorded() if not self._known.commits(repo)]

    def holder(self, repo: Repo) -> Source:
        """The source that serves a repository without upstream."""
        return self._local.holder(repo)

    def close(self) -> None:
        self._client.close()

    def _is_local(self, repo: Repo) -> bool:
        """Whether a source that no pull fills serves the repository."""
        try:
            return self._local.holder(repo).layout is not Layout.MANAGED_CACHE
        except (RepositoryNotFoundError, UnavailableError):
            return False

    def _is_here(self, repo: Repo) -> bool:
        return self._cache.folder(repo).recorded()

    def _at(self, repo: Repo, commit_hash: str) -> Snapshot:
        """The whole commit; files that are not here are fetched when they are opened."""
        try:
            held = self._local.snapshot(repo, commit_hash)
            if held.whole and not held.absent:
                return held
        except DigestPendingError:
            raise
        except (NotFoundError, UnavailableError):
            pass
        return self._recent.get(
            (repo.key, commit_hash, self._forwards_tokens and client_token.get()),
            lambda: self._whole(repo, commit_hash),
        )

    def _whole(self, repo: Repo, commit_hash: str) -> Snapshot:
        record = self._record(repo, commit_hash)
        if record is None:
            self._client.resolve(self._question(repo, commit_hash))
            record = self._record(repo, commit_hash)
        if record is None:
            raise UnavailableError(f"{repo} at {commit_hash} cannot be read now.")
        folder = self._cache.folder(record.repo)
        token = client_token.get() if self._forwards_tokens else None
        files: dict[str, StoredFile] = {
            path: UpstreamFile(file, self, folder, commit_hash, token)
            for path, file in {**record.files, **record.left_out}.items()
        }
        return Snapshot(
            repo=record.repo,
            commit_hash=commit_hash,
            files=files,
            last_modified=record.pulled_at,
            pulled_at=record.pulled_at,
            info=record.info,
        )

    def _record(self, repo: Repo, commit_hash: str) -> Record | None:
        return self._known.record(repo, commit_hash) or read_record(
            self._cache.folder(repo), commit_hash
        )

    def _check_access(self, snapshot: Snapshot) -> None:
        """If tokens are forwarded: raises the error with which upstream refuses the client."""
        info = snapshot.info
        is_open = info.get("private") is False and info.get("gated", False) is False
        if self._forwards_tokens and not is_open:
            self._client.check_access(self._question(snapshot.repo))

    def _question(self, repo: Repo, revision: str = "main") -> Question:
        token = client_token.get() if self._forwards_tokens else None
        return Question(repo, revision, token)

    def check(self, file: UpstreamFile) -> None:
        """Raises RefusedByRuleError if the file may not come in."""
        if file.local_path is None:
            self._rules.check_file(file.folder.repo, file.file)

    def open(self, file: UpstreamFile) -> Blob:
        """The blob of a file, from the cache or while it arrives."""
        etag, size = file.file.etag, file.file.size
        paths = PartialPaths.of(self._cache.work_dir, file.folder.repo.folder_name, etag)

        def request(offset: int) -> None:
            question = Question(
                file.folder.repo, file.commit_hash, file.token, file.file.path, offset
            )
            self._client.fill(question, offset // BLOCK)

        self._reads.note(file.folder.path.name, file.commit_hash)
        if path := file.local_path:
            OPENED.labels("disk").inc()
            return LocalFile(file.file, path).open()
        self.check(file)
        try:
            blob = PartialBlob.open(paths, size, file.file.path, request)
        except (FileNotFoundError, ValueError):
            request(0)
            raise UpstreamPendingError(file.file.path) from None
        except OSError as exc:
            raise BlobUnreadableError(file.file.path, exc.strerror or "it cannot be read") from exc
        OPENED.labels("upstream").inc()
        return blob


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """A file of a commit of upstream: in the managed cache, or to be fetched."""

    file: RepoFile
    source: PullThrough
    folder: RepoDir
    commit_hash: str
    token: str | None
    problem: str = ""

    @property
    def local_path(self) -> str | None:
        """The path of its blob; None as long as bytes of it are missing."""
        place = self.folder.blobs / self.file.etag
        try:
            is_whole = place.lstat().st_size == self.file.size
        except OSError:
            return None
        return str(place) if is_whole else None

    def open(self) -> Blob:
        return self.source.open(self)

    def check(self) -> None:
        """A file that is not here yet can be served, unless a rule keeps it out."""
        self.source.check(self)
