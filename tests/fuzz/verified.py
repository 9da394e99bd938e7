"""What `hubmirror verify` finds."""

from __future__ import annotations

import contextlib
from pathlib import Path

from click.testing import CliRunner

from mirror.cli import main

_HARM = ("corrupt", "truncated", "unreadable")


def harm(data: Path) -> list[str]:
    """The lines about files that are not what they should be. What is missing is none: a pull that
    failed leaves that for the next."""
    with contextlib.chdir(data.parent):
        result = CliRunner().invoke(main, ["verify", "--data", str(data)], terminal_width=200)
    if not isinstance(result.exception, SystemExit | None):
        raise AssertionError(f"verify: {result.exception!r}")
    return [line for line in result.output.splitlines() if line.startswith(_HARM)]
