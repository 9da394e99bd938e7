"""Fixtures of all generations: a site that was filled, and a closed network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.filling import alone, filling, later, simulator
from tests.openllm.closed import Closed, closed_network
from tests.openllm.sites import Site, fill

__all__ = ["alone", "filling", "later", "simulator"]

Close = Callable[..., Closed]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return fill(tmp_path_factory.mktemp("site"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The empty home of whoever serves."""
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def close(home: Path) -> Iterator[Close]:
    """Open closed networks, in which names are of loopback."""
    with ExitStack() as stack:
        yield lambda *names: stack.enter_context(closed_network(home.parent, *names))
