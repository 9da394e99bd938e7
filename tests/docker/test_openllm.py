"""The profile `gpu` of docker-compose.yml, without a GPU: OpenLLM starts from the mirror alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.docker.conftest import Clone
from tests.docker.engine import Engine
from tests.openllm.model_repository import TAG
from tests.openllm.sites import fill, hubmirror
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]

ASK = """import urllib.request as u
request = u.Request("http://127.0.0.1:3000/facts", b"{}", {"Content-Type": "application/json"})
print(u.urlopen(request, timeout=60).read().decode())"""


def build(engine: Engine) -> None:
    engine.run("docker-compose", "--profile", "gpu", "build", "mirror", "openllm")


def test_openllm_serves_a_bento_with_no_way_out(clone: Clone, tmp_path: Path) -> None:
    site = fill(tmp_path)
    shutil.copytree(site.data, clone.folder / "data", symlinks=True, dirs_exist_ok=True)
    words = ("openllm", "env", "http://mirror:8400", TAG, "--format", "dotenv")
    told = hubmirror(*words, "--data", site.data, cwd=tmp_path).splitlines()
    [constraint] = [line for line in told if line.startswith("UV_CONSTRAINT=")]
    clone.variables |= {
        "OPENLLM_MODEL": TAG,
        "OPENLLM_CONSTRAINT": constraint.partition("=")[2],
    }
    composed = yaml.safe_load(clone.compose("--profile", "gpu", "config"))
    del composed["services"]["openllm"]["deploy"]  # this machine may have no GPU
    (clone.folder / "docker-compose.yml").write_text(yaml.safe_dump(composed))
    clone.compose("--profile", "gpu", "up", "--detach")
    openllm = clone.container("openllm")

    def ask() -> str:
        assert clone.engine.docker("inspect", "-f", "{{.State.Running}}", openllm) == "true", (
            clone.engine.docker("logs", openllm)[-4000:]
        )
        said = clone.engine.docker("exec", openllm, "python3", "-c", ASK, code=None)
        return said if said.startswith("{") else ""

    assert site.is_served_whole(until(ask, 400, 2))
