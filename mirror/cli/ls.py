"""`hubmirror ls`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mirror.cli.settings import PLACE, settings
from mirror.config import SourceSpec
from mirror.core.repo import short_ref
from mirror.core.source import unrecorded_text
from mirror.core.units import human
from mirror.server.opened_sources import OpenedSources, open_sources
from mirror.sources.inventory import Row, inventory

if TYPE_CHECKING:
    from pathlib import Path


_PIPE_WIDTH = 1000  # columns; keeps each row on one line


@click.command()
@settings(*PLACE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def ls(data: Path, state: Path | None, sources: tuple[str, ...], *, as_json: bool) -> None:
    """List the revisions of all sources."""
    place = open_sources(data, state, [SourceSpec.parse(text) for text in sources])
    rows = list(inventory(place.sources))
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(_to_dict(row)))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    if rows:
        console.print(_table(rows))
    else:
        console.print("The sources have no repositories yet.")
    warn_unrecorded(console, place)


def warn_unrecorded(console: Console, place: OpenedSources) -> None:
    """Print a warning for repositories of a managed source that have no record."""
    for source in place.sources.sources:
        if repos := source.unrecorded():
            folder = source.label.partition(":")[2]
            console.print(escape(unrecorded_text(repos, folder)), style="yellow")


def _table(rows: list[Row]) -> Table:
    names = ["repository", "revision", "refs", "files", "size", "source", "status"]
    if any(row.pulled_at for row in rows):
        names.insert(5, "pulled")
    table = Table(box=None, header_style="bold")
    for name in names:
        is_number = name in ("files", "size")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        cells = {
            "repository": str(row.repo),
            "revision": row.commit_hash[:8],
            "refs": " ".join(map(short_ref, row.refs)),
            "files": str(row.files),
            "size": human(row.size),
            "pulled": row.pulled_at.strftime("%Y-%m-%d") if row.pulled_at else "",
            "source": escape(row.source),
            "status": escape(f"{row.status}: {row.note}" if row.note else row.status),
        }
        table.add_row(*(cells[name] for name in names))
    return table


def _to_dict(row: Row) -> dict[str, Any]:
    return {
        "repo_type": row.repo.repo_type, "repo_id": row.repo.repo_id,
        "commit_hash": row.commit_hash, "refs": row.refs, "source": row.source,
        "status": row.status, "files": row.files, "size": row.size, "note": row.note,
        "pulled_at": row.pulled_at, "pull": row.pull.to_dict() if row.pull else None,
    }  # fmt: skip
