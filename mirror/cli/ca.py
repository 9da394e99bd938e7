"""The command for a private authority."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mirror.cli.settings import settings
from mirror.server.certificates import init

if TYPE_CHECKING:
    from pathlib import Path


@click.group("ca")
def ca() -> None:
    """A private authority, so that the mirror can answer as huggingface.co itself."""


@ca.command("init")
@settings("ca")
def init_(ca: Path, **_: Any) -> None:
    """Make the authority; its key stays in the folder, readable by you alone."""
    certificate = init(ca)
    click.echo(f"Made {certificate}. Clients are to trust it; its key must never leave this host.")
    click.echo("Now: hubmirror serve --tls --names huggingface.co")
