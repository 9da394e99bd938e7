"""What a start of OpenLLM 0.6 asks for is recorded, carried and rehearsed."""

from __future__ import annotations

import platform
import sys
import tomllib
from pathlib import Path

import pytest

from tests.openllm.closed import SCRIPTS, basics
from tests.openllm.environments import environment
from tests.openllm.model_repository import TAG
from tests.openllm.sites import Site
from tests.openllm.test_openllm_06 import FACTS, READY
from tests.recording import hubmirror, skip_unless_closed
from tests.servers import run_command

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1800)]


def start(site: Path, data: Path, home: Path, output: str) -> str:
    """Record a start at a data folder, by a user with an empty home and no other network."""
    home.mkdir()
    program = environment("openllm-0.6", gigabytes=1)
    script = ["sh", SCRIPTS / "start_once.sh", sys.executable, data, TAG, READY, FACTS]
    record = ["record", "--closed", "-o", output, "--data", data, "--"]
    env = basics(home, program / "bin")
    return hubmirror(site, *map(str, [*record, *script]), env=env)


def test_openllm_starts_at_a_site_that_was_filled_by_its_recording(
    site: Site, tmp_path: Path
) -> None:
    skip_unless_closed()
    said = start(tmp_path, site.data, tmp_path / "home", "recorded.toml")
    assert "Missing" not in said
    file = tomllib.loads((tmp_path / "recorded.toml").read_text())
    (entry,) = file["repo"]
    assert (entry["repo_id"], entry["revision"]) == ("hubmirror/demo", site.record.commit_hash)
    assert any(path.startswith("/-/git/github.com/") for path in file["requests"])
    assert "/-/wheels/bentoml-1.4.39-py3-none-any.whl" in file["requests"]

    rehearse = ["rehearse", "recorded.toml", "--data", "further"]
    with run_command(tmp_path, "--data", str(site.data)) as server:
        upstream = ["--data", "further", "--upstream", server.url]
        hubmirror(tmp_path, "pull", "--config", "recorded.toml", *upstream)
        assert "/-/git/github.com/" in hubmirror(tmp_path, *rehearse, status=1)
        host = ["--glibc", platform.libc_ver()[1], "--machine", platform.machine()]
        repository = ["--repository", str(site.repository)]
        hubmirror(tmp_path, "openllm", "pull", TAG, *repository, *host, *upstream)
    assert "Everything is here: 1 revision" in hubmirror(tmp_path, *rehearse)
    start(tmp_path, tmp_path / "further", tmp_path / "home-2", "again.toml")
    assert (tmp_path / "again.toml").read_text() == (tmp_path / "recorded.toml").read_text()
    (tmp_path / "further" / "wheels" / "bentoml-1.4.39-py3-none-any.whl").unlink()
    assert "bentoml-1.4.39" in hubmirror(tmp_path, *rehearse, status=1)
