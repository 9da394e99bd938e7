"""`hubmirror ls`."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click
import orjson

from mirror.cli.settings import PLACE, settings
from mirror.config.specs import RepoSpec, SourceSpec
from mirror.core.errors import UnavailableError, operator_text
from mirror.core.repo import Repo, RepoType, short_ref
from mirror.core.source import unrecorded_text
from mirror.core.units import human, several
from mirror.server.opened_sources import OpenedSources, open_sources
from mirror.sources.inventory import Row, inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_NUMBERS = ("files", "size")


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings(*PLACE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def ls(
    repos: tuple[str, ...],
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """List the revisions of all sources, or only those of each REPO.

    REPO is ORG/NAME, datasets/ORG/NAME or spaces/ORG/NAME.
    """
    wanted = [RepoSpec.parse(text).repo for text in repos]
    place = open_sources(data, state, [SourceSpec.parse(text) for text in sources])
    rows, problems = _read(place, {repo.key for repo in wanted})
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(_to_dict(row)))
    elif rows:
        _print_table(rows)
    elif not wanted and not problems:
        click.echo("The sources have no repositories yet.")
    if not wanted and not as_json and not problems:
        warn_unrecorded(place, lambda text: click.secho(text, fg="yellow"))
    problems += _absent(place, wanted, rows) if not problems else []
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    sys.exit(1 if problems else 0)


def _read(place: OpenedSources, wanted: set[str]) -> tuple[list[Row], list[str]]:
    """The rows of all sources, and a message for each source that cannot be listed."""
    rows, problems = [], []
    for source in place.sources.sources:
        try:
            rows += inventory(place.sources, source, wanted)
        except UnavailableError as exc:
            problems.append(operator_text(exc))
    return rows, problems


def _absent(place: OpenedSources, wanted: Sequence[Repo], rows: Sequence[Row]) -> list[str]:
    """A message for each wanted repository that no source has."""
    found = {row.repo.key for row in rows}
    absent = [repo for repo in wanted if repo.key not in found]
    here = {repo.key: repo for repo in place.sources.repos()} if absent else {}
    messages = []
    for repo in absent:
        others = [Repo(repo_type, repo.repo_id).key for repo_type in RepoType]
        near = ", ".join(str(here[key]) for key in others if key in here)
        hint = f"Did you mean {near}?" if near else "List what is here with `hubmirror ls`."
        messages.append(f"No source has {repo}. {hint}")
    return messages


def warn_unrecorded(place: OpenedSources, warn: Callable[[str], None]) -> None:
    """Warn of the repositories of each managed source that have no record."""
    for source in place.sources.sources:
        if repos := source.unrecorded():
            warn(unrecorded_text(repos, source.label.partition(":")[2]))


def _print_table(rows: list[Row]) -> None:
    """One line for each row, however long: a terminal wraps it, and an id is never broken."""
    names = ["repository", "revision", "refs", "files", "size", "source", "status"]
    if any(row.pulled_at for row in rows):
        names.insert(5, "pulled")
    cells = [[_cells(row)[name] for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for number, line in enumerate([names, *cells]):
        aligned = [
            text.rjust(width) if name in _NUMBERS else text.ljust(width)
            for name, text, width in zip(names, line, widths, strict=True)
        ]
        click.secho("  ".join(aligned).rstrip(), bold=number == 0)
    click.echo(_totals(rows))


def _cells(row: Row) -> dict[str, str]:
    return {
        "repository": str(row.repo),
        "revision": row.commit_hash[:8],
        "refs": " ".join(map(short_ref, row.refs)),
        "files": str(row.files),
        "size": human(row.size),
        "pulled": row.pulled_at.strftime("%Y-%m-%d") if row.pulled_at else "",
        "source": row.source,
        "status": f"{row.status}: {row.note}" if row.note else row.status,
    }


def _totals(rows: list[Row]) -> str:
    """The counts of all rows. Files with the same content count once."""
    repos = several(len({row.repo.key for row in rows}), "repository")
    size = human(sum({etag: size for row in rows for etag, size in row.blobs.items()}.values()))
    counts = Counter(row.status for row in rows)
    statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{repos}, {several(len(rows), 'revision')} ({statuses}), {size}"


def _to_dict(row: Row) -> dict[str, Any]:
    return {
        "repo_type": row.repo.repo_type, "repo_id": row.repo.repo_id,
        "commit_hash": row.commit_hash, "refs": row.refs, "source": row.source,
        "status": row.status, "files": row.files, "size": row.size, "note": row.note,
        "pulled_at": row.pulled_at, "pull": row.pull.to_dict() if row.pull else None,
    }  # fmt: skip
