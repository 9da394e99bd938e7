"""The commands for a Bento model store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mirror.cli.settings import PLACE, settings
from mirror.config import RepoSpec, SourceSpec
from mirror.core.errors import ConfigError
from mirror.core.units import several
from mirror.server.opened_sources import open_sources

try:
    from mirror.openllm import bento_store as store
except ImportError as exc:
    raise ConfigError("BentoML is not installed: pip install 'hubmirror[bentoml]'.") from exc

_store_option = click.option(
    "--store", type=click.Path(path_type=Path), help="A BENTOML_HOME [default: bentoml/ of data]."
)


@click.group()
def bento() -> None:
    """Entries of a Bento model store, for OpenLLM 0.4 and 0.5, and for BentoML."""


@bento.command()
@click.argument("repo", metavar="REPO[@REVISION]")
@settings(*PLACE)
@click.option(
    "--for",
    "generation",
    type=click.Choice(["openllm-0.4", "openllm-0.5"]),
    default="openllm-0.5",
    show_default=True,
    help="The generation of OpenLLM that is to find it.",
)
@click.option("--backend", type=click.Choice(store.BACKENDS), default="vllm", show_default=True)
@click.option("--tag", default="", help="A name of your own, where the derived one will not do.")
@_store_option
def add(
    repo: str, data: Path, state: Path | None, sources: tuple[str, ...], **options: Any
) -> None:
    """Write an entry from what the mirror holds, by hard link where that can be."""
    spec = RepoSpec.parse(repo)
    place = open_sources(data, state, [SourceSpec.parse(text) for text in sources], timeout_s=3600)
    snapshot = place.sources.snapshot(spec.repo, spec.revision)
    form = store.Form.of(
        options["generation"], snapshot.repo.repo_id, options["backend"], options["tag"]
    )
    home = options["store"] or data / "bentoml"
    tag = store.add(home, snapshot, spec.revision, form)
    if snapshot.absent:
        click.echo(
            f"Not in this mirror, nor in the entry: {several(len(snapshot.absent), 'file')} that "
            f"upstream has; the first is {next(iter(snapshot.absent))}.",
            err=True,
        )
    place.digests.close()
    click.echo(tag)
    start = snapshot.repo.repo_id if options["generation"] == "openllm-0.4" else tag
    click.echo(f"On the serving host: BENTOML_HOME={home} openllm start {start}", err=True)


@bento.command()
@click.argument("tag")
@click.argument("out", type=click.Path(path_type=Path), default=".")
@settings("data")
@_store_option
def export(tag: str, out: Path, data: Path, **options: Any) -> None:
    """Write an entry as a .bentomodel, which BentoML imports anywhere."""
    click.echo(store.export(options["store"] or data / "bentoml", tag, out))


@bento.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@settings("data")
@_store_option
def import_(file: Path, data: Path, **options: Any) -> None:
    """Bring a .bentomodel into the store."""
    click.echo(store.import_(options["store"] or data / "bentoml", file))
