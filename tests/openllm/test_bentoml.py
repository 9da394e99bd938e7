"""BentoML's newest, as it is: models from the mirror, bentos, and entries that go to and fro."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("bentoml", reason="BentoML is not installed beside hubmirror")

import yaml

from mirror.core.record import Record
from tests.openllm.closed import MIRROR_URL, SCRIPTS, Closed, Server, basics
from tests.openllm.conftest import Close
from tests.openllm.environments import environment
from tests.openllm.pages import documented
from tests.openllm.sites import Site, demo_data, hubmirror

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Host:
    """A host beside the mirror, whose BENTOML_HOME is `store`."""

    closed: Closed
    mirror: Server
    data: Path
    record: Record
    store: Path
    home: Path
    program: Path

    def python(self, *words: str | Path, cwd: Path | None = None) -> str:
        """Run Python with BentoML; what it prints."""
        env = {
            **basics(self.home, self.program / "bin"),
            "HF_ENDPOINT": MIRROR_URL,
            "BENTOML_HOME": str(self.store),
            "BENTOML_DO_NOT_TRACK": "True",
            "UV_DEFAULT_INDEX": f"{MIRROR_URL}/-/simple/",
        }
        done = self.closed.run([self.program / "bin" / "python", *words], env, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr + self.closed.told()
        return done.stdout

    @property
    def snapshot(self) -> Path:
        """The model's files, as the mirror holds them."""
        snapshots = self.data / "hub" / "models--hubmirror--demo" / "snapshots"
        return snapshots / self.record.commit_hash

    def is_whole(self, folder: Path) -> bool:
        """Whether a folder holds the model's files."""
        return all(
            (folder / path).read_bytes() == (self.snapshot / path).read_bytes()
            for path in self.record.files
        )

    def bentoml(self, *words: str | Path, cwd: Path | None = None) -> str:
        return self.python("-m", "bentoml", *words, cwd=cwd)


@pytest.fixture(scope="session")
def program() -> Path:
    return environment("bentoml", gigabytes=1)


@pytest.fixture
def host(close: Close, home: Path, program: Path, tmp_path: Path) -> Host:
    data, record = demo_data(tmp_path / "data")
    closed = close()
    mirror = closed.mirror(data)
    return Host(closed, mirror, data, record, home / "bentoml", home, program)


def test_a_model_is_resolved(host: Host) -> None:
    told = json.loads(host.python(SCRIPTS / "resolve.py", "hubmirror/Demo").splitlines()[-1])
    assert told == {"commit_hash": host.record.commit_hash, "files": sorted(host.record.files)}


def test_a_bento_is_built(host: Host, site: Site, tmp_path: Path) -> None:
    """With its model pinned, and its requirements locked by what the mirror has."""
    shutil.copytree(site.data / "wheels", host.data / "wheels", copy_function=os.link)
    project = tmp_path / "project"
    project.mkdir()
    (project / "service.py").write_text((SCRIPTS / "tiny_service.py").read_text())
    host.bentoml("build", "service.py:LLM", "--version", "v1", cwd=project)
    built = host.store / "bentos" / "tiny" / "v1"
    bento = yaml.safe_load((built / "bento.yaml").read_text())
    [model] = [one for service in bento["services"] for one in service["models"]]
    assert model["registry"] == "huggingface"
    assert model["metadata"]["revision"] == host.record.commit_hash
    locked = (built / "env" / "python" / "requirements.txt").read_text()
    assert "bentoml==1.4.39" in locked
    assert "starlette==" in locked
    assert "GET /api/models/hubmirror/demo/revision/main 200" in host.mirror.requests()
    assert "GET /-/simple/bentoml/ 200" in host.mirror.requests()


def test_an_export_of_ours_is_imported_by_bentoml(host: Host, tmp_path: Path) -> None:
    added = hubmirror("bento", "add", "hubmirror/demo", "--data", host.data, cwd=tmp_path)
    tag = added.splitlines()[0]
    out = tmp_path / "demo.bentomodel"
    export = documented(
        "hubmirror bento export qwen--qwen2-7b-instruct qwen.bentomodel",
        {"qwen.bentomodel": str(out)},
    )
    hubmirror(*export, "--data", host.data, cwd=tmp_path)
    host.bentoml("models", "import", out)
    [entry] = json.loads(host.bentoml("models", "list", "-o", "json"))
    assert entry["tag"] == tag
    name, version = tag.split(":")
    assert host.is_whole(host.store / "models" / name / version)


def test_an_export_of_bentoml_is_imported_and_served(host: Host, tmp_path: Path) -> None:
    host.python(SCRIPTS / "create.py", "acme--tiny:v1", host.snapshot)
    out = tmp_path / "tiny.bentomodel"
    host.bentoml("models", "export", "acme--tiny:v1", out)
    import_ = documented("hubmirror bento import qwen.bentomodel", {"qwen.bentomodel": str(out)})
    said = hubmirror(*import_, "--data", host.data, cwd=tmp_path)
    assert said.splitlines()[-1] == "acme--tiny:v1"
    assert host.is_whole(host.data / "bentoml" / "models" / "acme--tiny" / "v1")
    host.mirror.process.terminate()
    host.mirror.process.wait(20)
    host.closed.mirror(host.data)
    told = json.loads(host.python(SCRIPTS / "resolve.py", "acme/tiny").splitlines()[-1])
    assert set(host.record.files) <= set(told["files"])
