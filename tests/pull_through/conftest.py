"""A simulated hub upstream, and a mirror in processes of its own in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hub import HubSimulator, run_hub
from tests.servers import Command, run_command

StartMirror = Callable[..., Command]


@pytest.fixture
def hub() -> HubSimulator:
    return HubSimulator()


@pytest.fixture
def upstream(hub: HubSimulator) -> Iterator[str]:
    with run_hub(hub) as url:
        yield url


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartMirror]:
    """Start a mirror on a data folder; `log` is the file of its messages."""
    with ExitStack() as stack:

        def start(data: Path, upstream: str, *words: str) -> Command:
            log = stack.enter_context((tmp_path / "log").open("a"))
            command = ("--data", str(data), "--upstream", upstream, *words)
            return stack.enter_context(run_command(tmp_path, *command, errors=log))

        yield start


@pytest.fixture
def mirror(start: StartMirror, data: Path, upstream: str) -> Command:
    """A mirror with two workers, which looks a branch up again after a second."""
    return start(data, upstream, "--workers", "2", "--fresh", "1")
