"""The commands that copy a data folder to another host: `push` and `bundle`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click

from mirror.cli.progress import showing
from mirror.cli.settings import AS_JSON, settings
from mirror.config import parse_repo
from mirror.core.errors import ConfigError
from mirror.core.units import human, parse_size, several
from mirror.transfer import bundle_apply, bundle_create
from mirror.transfer.push import push as push_folder

_folder = click.Path(path_type=Path)


@click.command()
@click.argument("destination", metavar="HOST:/PATH")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[REPO…] [-- RSYNC OPTIONS]")
@settings("data")
@click.option("--delete", is_flag=True, help="Delete files there that are absent here.")
@click.option(
    "--dry-run", is_flag=True, help="List what would be copied and deleted, and do nothing."
)
@AS_JSON
def push(
    destination: str,
    words: tuple[str, ...],
    data: Path,
    *,
    delete: bool,
    dry_run: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Copy the data folder with rsync, in an order that is safe for readers.

    With REPO, only these repositories of hub/ are copied. The destination must be empty, or a data
    folder of hubmirror. An interrupted push continues when you run it again.
    """
    repos = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    with showing(as_json=as_json) as report:
        push_folder(
            data,
            destination,
            [parse_repo(text) for text in repos],
            delete=delete,
            dry_run=dry_run,
            options=words[len(repos) :],
            report=report,
        )


@click.group()
def bundle() -> None:
    """Copy the data folder on a disk."""


@bundle.command()
@click.argument("out", type=_folder)
@settings("data")
@click.option("--since", type=_folder, help="The last bundle that the other host applied.")
@click.option("--split", default="64G", show_default=True, help="Maximum size: 4G, 500M.")
@AS_JSON
def create(
    out: Path, data: Path, since: Path | None, split: str, *, as_json: bool, **_: Any
) -> None:
    """Write the data folder as volumes, with a manifest of their digests."""
    with showing(as_json=as_json) as report:
        manifest = bundle_create.create(data, out, since=since, split=_split(split), report=report)
    size = sum(volume.size for volume in manifest.volumes)
    volumes = f"{several(len(manifest.volumes), 'volume')}, {human(size)}"
    click.echo(f"Wrote {volumes}. Sign {out / 'manifest.json'}.", err=True)


@bundle.command()
@click.argument("folder", type=_folder)
@settings("data")
@AS_JSON
def apply(folder: Path, data: Path, *, as_json: bool, **_: Any) -> None:
    """Check all volumes of a bundle, then copy its files to the data folder."""
    with showing(as_json=as_json) as report:
        bundle_apply.apply(data, folder, report=report)


def _split(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as exc:
        raise ConfigError(f"--split: {exc}") from exc
    if not size:
        raise ConfigError("--split must be larger than 0.")
    return size
