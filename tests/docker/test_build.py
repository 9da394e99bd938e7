"""What a build asks of the site."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from tests.docker.engine import running
from tests.servers import run_server

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]


def test_a_build_asks_the_package_index_of_the_site(folder: Path) -> None:
    """An index that has nothing: the build ends with the first package."""
    asked: list[str] = []

    async def index(scope: Scope, _receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body"})

    with run_server(index) as url, running(folder, is_closed=False) as engine:
        argument = ("--build-arg", f"PIP_INDEX_URL={url}/simple/")
        said = engine.build("slim", "hubmirror:none", *argument, code=1)
    assert asked
    assert {path.split("/")[1] for path in asked} == {"simple"}
    assert "No matching distribution found" in said
