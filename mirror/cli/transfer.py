"""The commands that copy a data folder to another host: `push` and `bundle`."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import orjson

from mirror.cli.progress import showing
from mirror.cli.settings import AS_JSON, settings
from mirror.config.values import parse_repo
from mirror.core.errors import ConfigError
from mirror.core.units import human, parse_size, several
from mirror.store.progress import Message
from mirror.transfer import bundle_apply, bundle_create
from mirror.transfer.bundle_inspect import parts
from mirror.transfer.bundle_manifest import MANIFEST, Manifest
from mirror.transfer.bundle_signature import sign_command
from mirror.transfer.bundle_volumes import check_volumes
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
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings("data")
@click.option("--since", type=_folder, help="The last bundle that the other host applied.")
@click.option("--split", default="64G", show_default=True, help="Maximum size: 4G, 500M.")
@AS_JSON
def create(
    out: Path,
    repos: tuple[str, ...],
    data: Path,
    since: Path | None,
    split: str,
    *,
    as_json: bool,
    **_: Any,
) -> None:
    """Write the data folder as volumes, with a manifest of their digests.

    With REPO, the bundle contains only these repositories of hub/.
    """
    chosen = [parse_repo(text) for text in repos]
    with showing(as_json=as_json) as report:
        manifest = bundle_create.create(
            data, out, chosen, since=since, split=_split(split), report=report
        )
    size = sum(volume.size for volume in manifest.volumes)
    volumes = f"{several(len(manifest.volumes), 'volume')}, {human(size)}"
    click.echo(f"Wrote {volumes}. Sign it: {sign_command(out / MANIFEST)}", err=True)


@bundle.command()
@click.argument("folder", type=_folder)
@settings("data", "allowed_signers")
@AS_JSON
def apply(
    folder: Path, data: Path, allowed_signers: Path | None, *, as_json: bool, **_: Any
) -> None:
    """Check all volumes of a bundle, then copy its files to the data folder.

    With --allowed-signers, a bundle that none of them signed is refused before anything else.
    """
    with showing(as_json=as_json) as report:
        bundle_apply.apply(data, folder, signers=allowed_signers, report=report)


@bundle.command()
@click.argument("folder", type=_folder)
@settings("allowed_signers")
@AS_JSON
def verify(folder: Path, allowed_signers: Path | None, *, as_json: bool, **_: Any) -> None:
    """Check the manifest and all volumes of a bundle, and change nothing.

    With --allowed-signers, check the signature too.
    """
    folder = folder.parent if folder.name == MANIFEST else folder
    with showing(as_json=as_json) as report:
        manifest = Manifest.read(folder, allowed_signers)
        check_volumes(folder, manifest, report)
        report(Message("info", f"The bundle {manifest.bundle_id} is whole."))
        if not allowed_signers:
            text = "The signature was not checked: --allowed-signers names who may sign."
            report(Message("warning", text))


@bundle.command()
@click.argument("folder", type=_folder)
@AS_JSON
def inspect(folder: Path, *, as_json: bool) -> None:
    """List what a bundle contains, and change nothing. The volumes are not read."""
    manifest = Manifest.read(folder)
    size = sum(volume.size for volume in manifest.volumes)
    if as_json:
        head = {
            "bundle_id": manifest.bundle_id, "created_at": manifest.created_at,
            "since": manifest.since, "volumes": len(manifest.volumes), "size": size,
        }  # fmt: skip
        for row in (head, *map(asdict, parts(manifest))):
            click.echo(orjson.dumps(row))
        return
    click.echo(f"Bundle {manifest.bundle_id} of {manifest.created_at[:16]}")
    if manifest.since:
        click.echo(f"It needs the bundle {manifest.since} of {manifest.since_created_at[:16]}.")
    click.echo(f"{several(len(manifest.volumes), 'volume')}, {human(size)}")
    for part in parts(manifest):
        click.echo(f"{human(part.size):>10}  {part.name}  ({several(part.files, 'file')})")
        for commit in part.commits:
            click.echo(f"{'':>10}    {commit}")


def _split(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as exc:
        raise ConfigError(f"--split: {exc}") from exc
    if not size:
        raise ConfigError("--split must be larger than 0.")
    return size
