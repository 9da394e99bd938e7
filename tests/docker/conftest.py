"""Fixtures of the tests with a Docker engine: the images, and a fresh clone."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.docker.engine import ROOT, Engine, engine_folder, running

SITE = "site"
"""A network with no way out."""


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with engine_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def engine(folder: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine in a closed network, with the images that the function `build` of the module
    builds before."""
    with running(folder, is_closed=False) as engine:
        request.module.build(engine)
    with running(folder, is_closed=True) as engine:
        yield engine


@dataclass
class Clone:
    """A fresh clone, in which `docker-compose` runs as one project."""

    engine: Engine
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def compose(self, *words: str, code: int | None = 0) -> str:
        return self.engine.run(
            "docker-compose", *words, cwd=self.folder, variables=self.variables, code=code
        )

    def container(self, service: str) -> str:
        return self.compose("ps", "--quiet", service)

    def join(self, service: str, *names: str) -> None:
        """Let the clients on the network SITE reach a service by its name, or by others."""
        aliases = [f"--alias={name}" for name in (service, *names)]
        self.engine.docker("network", "connect", *aliases, SITE, self.container(service))

    def client(
        self, *words: str, variables: dict[str, str] | None = None, code: int | None = 0
    ) -> str:
        """Run a program of the mirror's image on the network SITE, as another container."""
        told = [f"--env={name}={text}" for name, text in (variables or {}).items()]
        return self.engine.docker(
            "run", "--rm", "--network", SITE, *told, "--entrypoint", words[0],
            "hubmirror:slim", *words[1:], code=code,
        )  # fmt: skip


@pytest.fixture
def clone(engine: Engine, tmp_path: Path) -> Iterator[Clone]:
    """What git has of this project, as it is now, and an internal network beside it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    folder = tmp_path / "clone"
    for name in filter(None, listed.split("\0")):
        with contextlib.suppress(FileNotFoundError):  # removed, and not yet committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    engine.docker("network", "create", "--internal", SITE)
    yield Clone(engine, folder)
    engine.remove_containers()
