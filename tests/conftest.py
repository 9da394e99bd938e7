"""Fixtures of many tests: served folders, and a client on a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.core.source import Source
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.first_found import FirstFound
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from mirror.web.app import create_app
from tests.servers import run_server

Serve = Callable[..., httpx2.Client]


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
def digests(state: State) -> Iterator[Digests]:
    digests = Digests(state)
    yield digests
    digests.close()


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


@pytest.fixture
def foreign(hub: Path, digests: Digests) -> HfCache:
    return HfCache(hub, digests, managed=False, ttl_s=0)


@pytest.fixture
def managed(hub: Path, digests: Digests) -> HfCache:
    return HfCache(hub, digests, managed=True, ttl_s=0)


@pytest.fixture
def plain(tmp_path: Path, digests: Digests) -> Folder:
    """The folder `plain`, which a test fills, as Org/Model."""
    (tmp_path / "plain").mkdir()
    return Folder(tmp_path / "plain", Repo.parse("Org/Model"), digests, ttl_s=0)


@pytest.fixture
def serve(state: State) -> Iterator[Serve]:
    """Serve sources on a real socket, and give a client of that server."""
    with ExitStack() as stack:
        yield lambda *sources, **options: stack.enter_context(serving(state, *sources, **options))


@contextmanager
def serving(state: State, *sources: Source, **options: Any) -> Iterator[httpx2.Client]:
    """A client of a server of these sources; `options` are those of `create_app`."""
    app = create_app(FirstFound(sources), state, ttl_s=0, **options)
    with run_server(app) as url, httpx2.Client(base_url=url, timeout=20) as client:
        yield client
