"""The commands that copy a data folder to another host: `push` and `bundle`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from mirror.cli.progress import showing
from mirror.cli.settings import settings
from mirror.core.errors import ConfigError
from mirror.core.units import human, several
from mirror.transfer import bundle_apply, bundle_create
from mirror.transfer.rsync import push as push_folder

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_folder = click.Path(path_type=Path)


@click.command()
@click.argument("destination", metavar="HOST:/PATH")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- RSYNC OPTIONS]")
@settings("data")
@click.option("--delete", is_flag=True, help="Delete files there that are absent here.")
def push(destination: str, options: tuple[str, ...], data: Path, *, delete: bool, **_: Any) -> None:
    """Copy the data folder with rsync, in an order that is safe for readers.

    An interrupted push continues when you run it again.
    """
    if options and not options[0].startswith("-"):
        raise ConfigError(
            f"{options[0]!r} is not an option of rsync. Push to one destination at a time, and "
            "write rsync options after --."
        )
    progress = ("--info=progress2",) if sys.stdout.isatty() else ()
    options = (*progress, *options)
    push_folder(data, destination, delete=delete, options=options, notify=click.echo)


@click.group()
def bundle() -> None:
    """Copy the data folder on a disk."""


@bundle.command()
@click.argument("out", type=_folder)
@settings("data")
@click.option("--since", type=_folder, help="The last bundle that the other host applied.")
@click.option("--split", default="64G", show_default=True, help="Maximum size: 4G, 500M.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def create(
    out: Path, data: Path, since: Path | None, split: str, *, as_json: bool, **_: Any
) -> None:
    """Write the data folder as volumes, with a manifest of their digests."""
    with showing(as_json=as_json) as report:
        manifest = bundle_create.create(
            data, out, since=since, split=_parse_size(split), report=report
        )
    size = sum(volume.size for volume in manifest.volumes)
    volumes = f"{several(len(manifest.volumes), 'volume')}, {human(size)}"
    click.echo(f"Wrote {volumes}. Sign {out / 'manifest.json'}.", err=True)


@bundle.command()
@click.argument("folder", type=_folder)
@settings("data")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def apply(folder: Path, data: Path, *, as_json: bool, **_: Any) -> None:
    """Check all volumes of a bundle, then copy its files to the data folder."""
    with showing(as_json=as_json) as report:
        bundle_apply.apply(data, folder, report=report)


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip().upper())
    if match is None or not int(match[1]):
        raise ConfigError(f"{text!r} is not a size. Write 64G, 500M or a number of bytes.")
    return int(match[1]) * _UNITS[match[2]]
