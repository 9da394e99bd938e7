"""`hubmirror mode` and `hubmirror pin`: the switches of pull-through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mirror.cli.settings import settings
from mirror.config.specs import RepoSpec
from mirror.core.errors import ConfigError
from mirror.pull_through.mode import Mode, read_mode, write_mode
from mirror.pull_through.pins import read_pins, write_pins
from mirror.sources.repo_dir import WORK_DIR

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@settings("data")
@click.argument("mode", type=click.Choice([one.value for one in Mode]), required=False)
def mode(data: Path, mode: str | None, **_: Any) -> None:
    """Print or set whether `serve --upstream` asks upstream: proxy or offline.

    A server that runs obeys within a second.
    """
    work_dir = _work_dir(data)
    if mode is None:
        click.echo(read_mode(work_dir))
        return
    write_mode(work_dir, Mode(mode))
    click.echo(f"The mode is {mode}.")


@click.command()
@settings("data")
@click.argument("repos", nargs=-1, metavar="[REPO]...")
@click.option("--remove", is_flag=True, help="Remove the pins of these repositories.")
def pin(data: Path, repos: tuple[str, ...], *, remove: bool, **_: Any) -> None:
    """Keep repositories when room is made (--cache-size). Without REPO, print the pins."""
    work_dir = _work_dir(data)
    pins = {repo.key: repo for repo in read_pins(work_dir)}
    if not repos:
        for repo in pins.values():
            click.echo(str(repo))
        return
    named = [RepoSpec.parse(text).repo for text in repos]
    if remove:
        for repo in named:
            pins.pop(repo.key, None)
    else:
        pins |= {repo.key: repo for repo in named}
    write_pins(work_dir, pins.values())


def _work_dir(data: Path) -> Path:
    """The work folder of the managed cache. Raises ConfigError if there is no cache."""
    hub = data / "hub"
    if not hub.is_dir():
        raise ConfigError(
            f"There is no managed cache in {data}. Check --data, or start `hubmirror serve "
            "--upstream URL` once."
        )
    return hub / WORK_DIR
