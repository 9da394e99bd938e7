"""The commands that carry a data folder elsewhere."""

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
@click.option("--delete", is_flag=True, help="Remove there what is not here any more.")
def push(destination: str, options: tuple[str, ...], data: Path, *, delete: bool, **_: Any) -> None:
    """Copy the data folder by rsync, in the order that readers need; run again, it goes on."""
    if options and not options[0].startswith("-"):
        raise ConfigError(
            f"{options[0]!r} is no option of rsync. One place is copied to at a time."
        )
    progress = ("--info=progress2",) if sys.stdout.isatty() else ()
    options = (*progress, *options)
    push_folder(data, destination, delete=delete, options=options, told=click.echo)


@click.group()
def bundle() -> None:
    """Carry the data folder on a disk."""


@bundle.command()
@click.argument("out", type=_folder)
@settings("data")
@click.option("--since", type=_folder, help="The last bundle that the other side has.")
@click.option("--split", default="64G", show_default=True, help="The largest volume: 4G, 500M.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def create(
    out: Path, data: Path, since: Path | None, split: str, *, as_json: bool, **_: Any
) -> None:
    """Write what the data folder holds as volumes with a manifest of digests."""
    with showing(as_json=as_json) as report:
        made = bundle_create.create(data, out, since=since, split=_bytes(split), report=report)
    size = sum(volume.size for volume in made.volumes)
    written = f"{several(len(made.volumes), 'volume')}, {human(size)}"
    click.echo(f"{written}. Sign {out / 'manifest.json'}.", err=True)


@bundle.command()
@click.argument("folder", type=_folder)
@settings("data")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def apply(folder: Path, data: Path, *, as_json: bool, **_: Any) -> None:
    """Check a bundle in full, then bring it into the data folder."""
    with showing(as_json=as_json) as report:
        bundle_apply.apply(data, folder, report=report)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip().upper())
    if match is None or not int(match[1]):
        raise ConfigError(f"{text!r} is no size. Write 64G, 500M or a number of bytes.")
    return int(match[1]) * _UNITS[match[2]]
