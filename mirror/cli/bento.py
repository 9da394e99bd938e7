"""The commands `hubmirror bento`, for entries of a Bento model store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mirror.cli.settings import PLACE, settings
from mirror.config.specs import RepoSpec, SourceSpec
from mirror.core.errors import ConfigError
from mirror.core.units import several
from mirror.server.opened_sources import open_sources

try:
    from mirror.openllm import bento_store as store
    from mirror.openllm.bentoml_adapter import check_version
except ImportError as exc:
    raise ConfigError(
        f"BentoML cannot be imported: {exc}. Install it: pip install 'hubmirror[bentoml]'."
    ) from exc

_store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="A BENTOML_HOME folder  [default: bentoml/ in the data folder]",
)


@click.group()
def bento() -> None:
    """Add, export and import entries of a Bento store, for OpenLLM 0.4 and 0.5 and BentoML."""
    check_version()


@bento.command()
@click.argument("repo", metavar="REPO[@REVISION]")
@settings(*PLACE)
@click.option(
    "--for",
    "generation",
    type=click.Choice(["openllm-0.4", "openllm-0.5"]),
    default="openllm-0.5",
    show_default=True,
    help="The generation of OpenLLM that reads the entry.",
)
@click.option("--backend", type=click.Choice(store.BACKENDS), default="vllm", show_default=True)
@click.option("--tag", default="", help="A name for the entry, instead of the derived name.")
@_store_option
def add(
    repo: str, data: Path, state: Path | None, sources: tuple[str, ...], **options: Any
) -> None:
    """Add a repository of the mirror to the store. Files are hard links if possible."""
    spec = RepoSpec.parse(repo)
    opened = open_sources(data, state, [SourceSpec.parse(text) for text in sources], timeout_s=3600)
    snapshot = opened.sources.snapshot(spec.repo, spec.revision)
    entry_format = store.EntryFormat.of(
        options["generation"], snapshot.repo.repo_id, options["backend"], options["tag"]
    )
    home = options["store"] or data / "bentoml"
    tag = store.add(home, snapshot, spec.revision, entry_format)
    if snapshot.absent:
        click.echo(
            f"The entry lacks {several(len(snapshot.absent), 'file')} of the upstream revision, "
            f"because the mirror lacks them. The first is {next(iter(snapshot.absent))}.",
            err=True,
        )
    opened.digests.close()
    click.echo(tag)
    model = snapshot.repo.repo_id if options["generation"] == "openllm-0.4" else tag
    click.echo(f"On the serving host: BENTOML_HOME={home} openllm start {model}", err=True)


@bento.command()
@click.argument("tag")
@click.argument("out", type=click.Path(path_type=Path), default=".")
@settings("data")
@_store_option
def export(tag: str, out: Path, data: Path, **options: Any) -> None:
    """Write an entry to a .bentomodel file, which any BentoML can import."""
    click.echo(store.export(options["store"] or data / "bentoml", tag, out))


@bento.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@settings("data")
@_store_option
def import_(file: Path, data: Path, **options: Any) -> None:
    """Import a .bentomodel file into the store."""
    click.echo(store.import_(options["store"] or data / "bentoml", file))
