"""A source that combines several sources."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from mirror.core.errors import (
    DigestPendingError,
    HubmirrorError,
    RepositoryNotFoundError,
    RevisionIncompleteError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.core.source import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from mirror.core.repo import Repo
    from mirror.core.source import Snapshot, Source

_Answer = TypeVar("_Answer")


class FirstFound:
    """All sources as one. The first source that has a repository serves all of its revisions.

    A source that has no complete revision of the repository is skipped.
    """

    label = "all sources"
    layout = Layout.OTHER
    root = None

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def repos(self) -> list[Repo]:
        """Each repository once, with the repo id of the first source that has it."""
        found: dict[str, Repo] = {}
        for source in self.sources:
            for repo in source.repos():
                found.setdefault(repo.key, repo)
        return sorted(found.values(), key=attrgetter("repo_type", "repo_id"))

    def refs(self, repo: Repo) -> Mapping[str, str]:
        return self._ask(repo, lambda source: source.refs(repo))

    def commits(self, repo: Repo) -> list[str]:
        return list(self._ask(repo, lambda source: source.commits(repo)))

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        """The snapshot of the first source that has the repository. Each source is read once, or
        twice if it has the repository without the revision."""
        incomplete: RevisionIncompleteError | None = None
        for source in self.sources:
            try:
                return source.snapshot(repo, revision)
            except RepositoryNotFoundError:
                continue
            except DigestPendingError:
                raise
            except (RevisionNotFoundError, UnavailableError) as exc:
                found = exc if revision == "HEAD" else _why_not(source, repo)
                if found is None:
                    raise
                if isinstance(found, RevisionIncompleteError):
                    incomplete = incomplete or found
                elif isinstance(found, UnavailableError):
                    raise
        raise incomplete or RepositoryNotFoundError(repo)

    def stamp(self, repo: Repo) -> Hashable:
        stamps = tuple(_stamp(source, repo) for source in self.sources)
        if all(stamp is None for stamp in stamps):
            raise RepositoryNotFoundError(repo)
        return stamps

    def identities(self) -> list[str]:
        return [name for source in self.sources for name in source.identities()]

    def unrecorded(self) -> list[Repo]:
        return [repo for source in self.sources for repo in source.unrecorded()]

    def holder(self, repo: Repo) -> Source:
        """The source that serves a repository."""
        return self._ask(repo, lambda source: source)

    def _ask(self, repo: Repo, question: Callable[[Source], _Answer]) -> _Answer:
        incomplete: RevisionIncompleteError | None = None
        for source in self.sources:
            found = _why_not(source, repo)
            if found is None or not isinstance(found, _SKIPPED):
                return question(source)
            if isinstance(found, RevisionIncompleteError):
                incomplete = incomplete or found
        raise incomplete or RepositoryNotFoundError(repo)


_SKIPPED = (RepositoryNotFoundError, RevisionNotFoundError, RevisionIncompleteError)


def _why_not(source: Source, repo: Repo) -> HubmirrorError | None:
    """The reason why a source serves no revision of a repository now; None if it serves one."""
    try:
        source.snapshot(repo, "HEAD")
    except (RepositoryNotFoundError, RevisionNotFoundError, UnavailableError) as exc:
        return exc
    return None


def _stamp(source: Source, repo: Repo) -> Hashable:
    try:
        return source.stamp(repo)
    except RepositoryNotFoundError:
        return None
