"""Sources made of sources."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from mirror.core.errors import (
    RepositoryNotFoundError,
    RevisionIncompleteError,
    RevisionNotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from mirror.core.repo import Repo
    from mirror.core.source import Snapshot, Source

_Answer = TypeVar("_Answer")


class FirstFound:
    """The first source that holds a repository answers for it, for all of its revisions.

    A source in which no revision of it is complete yet does not hold it.
    """

    label = "all sources"

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def repos(self) -> list[Repo]:
        """Each repository once, in the case of the source that is asked first."""
        found: dict[tuple[str, str], Repo] = {}
        for source in self.sources:
            for repo in source.repos():
                found.setdefault((repo.repo_type, repo.repo_id.lower()), repo)
        return sorted(found.values(), key=attrgetter("repo_type", "repo_id"))

    def refs(self, repo: Repo) -> Mapping[str, str]:
        return self._ask(repo, lambda source: source.refs(repo))

    def commits(self, repo: Repo) -> list[str]:
        return list(self._ask(repo, lambda source: source.commits(repo)))

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        return self._ask(repo, lambda source: source.snapshot(repo, revision))

    def stamp(self, repo: Repo) -> Hashable:
        return tuple(_stamp(source, repo) for source in self.sources)

    def identities(self) -> list[str]:
        return [name for source in self.sources for name in source.identities()]

    def unrecorded(self) -> list[Repo]:
        return [repo for source in self.sources for repo in source.unrecorded()]

    def holder(self, repo: Repo) -> Source:
        """The source that answers for a repository."""
        return self._ask(repo, lambda source: source)

    def _ask(self, repo: Repo, question: Callable[[Source], _Answer]) -> _Answer:
        incomplete: RevisionIncompleteError | None = None
        for source in self.sources:
            try:
                source.snapshot(repo, "HEAD")
            except (RepositoryNotFoundError, RevisionNotFoundError):
                continue
            except RevisionIncompleteError as exc:
                incomplete = incomplete or exc
                continue
            except UnavailableError:
                pass
            return question(source)
        raise incomplete or RepositoryNotFoundError(repo)


def _stamp(source: Source, repo: Repo) -> Hashable:
    try:
        return source.stamp(repo)
    except RepositoryNotFoundError:
        return None
