"""The command `hubmirror ca init`, which creates a private certificate authority."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mirror.cli.settings import settings
from mirror.server.certificates import init, is_key_exposed

if TYPE_CHECKING:
    from pathlib import Path


@click.group("ca")
def ca() -> None:
    """A private certificate authority, so that the mirror can serve the name huggingface.co."""


@ca.command("init")
@settings("ca")
def init_(ca: Path, **_: Any) -> None:
    """Create the authority. Its key stays in the folder; only you can read it."""
    certificate = init(ca)
    click.echo(
        f"Created {certificate}. Install it as a trusted certificate on each client. The key in "
        "the same folder must never leave this host."
    )
    if is_key_exposed(ca):
        click.echo(
            f"Warning: other users of this host can read the key, because the file system of {ca} "
            "has no modes. Create the authority on another disk: --ca FOLDER.",
            err=True,
        )
    click.echo("Next step: hubmirror serve --tls --names huggingface.co")
