"""Commands that are recorded and rehearsed, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mirror.core.errors import ConfigError
from mirror.server.closed_network import closed_network
from tests.servers import run_command

ROOT = Path(__file__).parents[1]


def hubmirror(
    folder: Path, *words: str, status: int = 0, env: Mapping[str, str] | None = None
) -> str:
    """A command, started in `folder`; what it says. `env` is added to the environment."""
    done = subprocess.run(
        [sys.executable, "-m", "mirror", *words], cwd=folder, text=True, timeout=600, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(env),
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    return done.stdout


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The entries of `recorded.toml`."""
    found: list[dict[str, Any]] = tomllib.loads((folder / "recorded.toml").read_text())["repo"]
    return found


def skip_unless_closed() -> None:
    """Skip the test where the machine cannot have a closed network."""
    try:
        with closed_network(["true"], os.environ):
            pass
    except ConfigError as exc:
        pytest.skip(str(exc))


def carry(folder: Path, command: Sequence[str]) -> str:
    """Record a command at `data`, pull what it wrote into the empty folder `further`, rehearse, and
    start the command there with no network. Returns what the rehearsal says."""
    hubmirror(folder, "record", "--", *command)
    (folder / "further").mkdir()
    with run_command(folder, "--data", "data", "--workers", "1") as server:
        pull = ["pull", "--config", "recorded.toml", "--data", "further"]
        hubmirror(folder, *pull, "--upstream", server.url)
    said = hubmirror(folder, "rehearse", "recorded.toml", "--data", "further")
    again = ["record", "-o", "again.toml", "--data", "further", "--closed", "--"]
    hubmirror(folder, *again, *command)
    assert (folder / "again.toml").read_text() == (folder / "recorded.toml").read_text()
    return said
