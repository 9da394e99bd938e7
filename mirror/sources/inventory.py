"""The list of the revisions in a source, for the operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.core.errors import (
    HubmirrorError,
    NotFoundError,
    RevisionIncompleteError,
    UnavailableError,
    operator_text,
)
from mirror.core.source import Layout
from mirror.core.tree import used_storage
from mirror.sources.pull_status import read_pulls

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from datetime import datetime

    from mirror.core.repo import Repo
    from mirror.core.source import Source
    from mirror.sources.first_found import FirstFound
    from mirror.sources.pull_status import PullStatus


@dataclass(frozen=True, slots=True)
class Row:
    """One revision. `size` is in bytes. A recorded revision has the `status` `complete`, `waiting`
    (files are missing) or `corrupt` (files were quarantined). A revision without a record is
    `foreign` or `partial`, or `damaged` if a file of it cannot be served. If another source serves
    the repository, the status is `shadowed`. A revision that is not published yet has the status of
    its `pull`: `running`, `failed` or `stopped`. `note` gives the reason. `blobs` are the sizes of
    the files by etag."""

    repo: Repo
    commit_hash: str
    refs: tuple[str, ...]
    source: str
    status: str
    files: int = 0
    size: int = 0
    note: str = ""
    pulled_at: datetime | None = None
    pull: PullStatus | None = None
    blobs: Mapping[str, int] = field(default_factory=dict, repr=False)


def inventory(
    sources: FirstFound,
    source: Source,
    repos: Collection[str] = (),
    explain: Callable[[HubmirrorError], str] = operator_text,
) -> list[Row]:
    """Every revision of one of the sources; only those of the repositories with the keys `repos`,
    if there are any. `explain` is the text of an error. Raises UnavailableError if the source
    cannot be listed."""
    pulls = {pull.repo: pull for pull in running_pulls(source)}
    return [
        row
        for repo in source.repos()
        if not repos or repo.key in repos
        for row in _rows(sources, source, repo, pulls.get(repo), explain)
    ]


def running_pulls(source: Source) -> list[PullStatus]:
    """The pulls into a source that run, or did not end well."""
    is_managed = source.layout is Layout.MANAGED_CACHE
    return read_pulls(source.root) if is_managed and source.root else []


def _rows(
    sources: FirstFound,
    source: Source,
    repo: Repo,
    pull: PullStatus | None,
    explain: Callable[[HubmirrorError], str],
) -> Iterator[Row]:
    shadow = _shadow(sources, source, repo)
    try:
        refs, commits = source.refs(repo), list(source.commits(repo))
    except HubmirrorError as exc:
        yield Row(repo, "", (), source.label, "waiting", note=explain(exc))
        return
    if not commits and not pull:
        yield Row(repo, "", (), source.label, "waiting", note="no pull has recorded it")
    rows = []
    for commit in commits:
        names = tuple(name for name, target in refs.items() if target == commit)
        rows.append(_row(source, repo, commit, names, shadow, explain))
    yield from rows
    if pull and (pull.is_running or not _is_complete(rows, pull.commit_hash)):
        yield _pull_row(source, pull)


def _is_complete(rows: list[Row], commit: str) -> bool:
    return any(row.commit_hash == commit and row.pulled_at for row in rows)


def _pull_row(source: Source, pull: PullStatus) -> Row:
    refs = (pull.revision,) if pull.revision else ()
    return Row(
        pull.repo, pull.commit_hash, refs, source.label, pull.state,
        size=pull.size, note=pull.text, pull=pull,
    )  # fmt: skip


def _row(
    source: Source,
    repo: Repo,
    commit: str,
    refs: tuple[str, ...],
    shadow: str,
    explain: Callable[[HubmirrorError], str],
) -> Row:
    try:
        snapshot = source.snapshot(repo, commit)
    except RevisionIncompleteError as exc:
        status = "corrupt" if exc.corrupt else "waiting"
        return Row(repo, commit, refs, source.label, status, note=exc.brief)
    except (NotFoundError, UnavailableError) as exc:
        return Row(repo, commit, refs, source.label, "waiting", note=explain(exc))
    files = [stored.file for stored in snapshot.files.values()]
    return Row(
        snapshot.repo,
        commit,
        refs,
        source.label,
        "shadowed" if shadow else snapshot.status,
        len(files),
        used_storage(files),
        f"{shadow} answers for it" if shadow else snapshot.problem_text or snapshot.note,
        snapshot.pulled_at,
        blobs={file.etag: file.size for file in files},
    )


def _shadow(sources: FirstFound, source: Source, repo: Repo) -> str:
    """The label of the source that serves the repository instead of this source, if any."""
    try:
        holder = sources.holder(repo)
    except HubmirrorError:
        return ""
    return "" if holder is source else holder.label
