"""OpenLLM 0.6.30, as it is, starts from nothing but what the mirror holds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.openllm.closed import MIRROR_URL, Closed, Server, basics
from tests.openllm.conftest import Close
from tests.openllm.environments import environment
from tests.openllm.model_repository import ENDPOINT, NAME, TAG, VERSION, git
from tests.openllm.pages import documented
from tests.openllm.sites import Site, hubmirror

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

FACTS = "http://127.0.0.1:3456/facts"
READY = "http://127.0.0.1:3456/readyz"


@pytest.fixture(scope="session")
def program() -> Path:
    return environment("openllm-0.6", gigabytes=1)


def told(site: Site, *words: str, data: Path | None = None) -> dict[str, str]:
    """What `hubmirror openllm env` tells a GPU host to set."""
    words = ("openllm", "env", *words, "--format", "dotenv", "--data", str(data or site.data))
    lines = hubmirror(*words, cwd=site.data.parent).splitlines()
    return dict(line.split("=", 1) for line in lines)


def openllm(closed: Closed, program: Path, env: dict[str, str], *words: str) -> str:
    done = closed.run([program / "bin" / "openllm", *words], env)
    assert done.returncode == 0, done.stdout + done.stderr + closed.told()
    return done.stdout


def serve(closed: Closed, program: Path, env: dict[str, str], *words: str) -> Server:
    """`openllm serve`, until it is ready."""
    command = [str(program / "bin" / "openllm"), *words, "--port", "3456"]
    server = closed.start("openllm", command, env)
    closed.wait_for(READY, server, 300)
    return server


def test_a_dry_run_tells_the_closure(site: Site) -> None:
    assert f"{NAME}:{VERSION}" in site.dry_run
    assert f"hubmirror/demo@{site.record.commit_hash[:12]}" in site.dry_run
    assert "bentoml-1.4.39-py3-none-any.whl" in site.dry_run
    assert "to fetch" in site.dry_run


def test_a_pull_brings_all_of_it(site: Site) -> None:
    check = documented("hubmirror openllm check llama3.2:1b")
    said = hubmirror(*check, "--data", site.data, cwd=site.data.parent)
    assert f"{NAME}:{VERSION} can start on Python 3.11" in said
    assert len(list((site.data / "wheels").glob("*.whl"))) > 50


def test_the_bento_follows_hf_endpoint_and_upstreams_own_stays(site: Site) -> None:
    [kept] = (site.data / "git").glob("*/*/*.git")
    path = f"bentoml/bentos/{NAME}/{VERSION}/bento.yaml"
    for branch in ("main", "nightly"):
        assert "endpoint: null\n" in git(kept, "show", f"{branch}:{path}")
        upstream = git(site.repository, "rev-parse", branch)
        assert git(kept, "rev-parse", f"upstream-{branch}") == upstream


def test_a_shell_is_told_the_same(site: Site) -> None:
    words = documented("hubmirror openllm env http://mirror.site:8400 llama3.2:1b")
    lines = hubmirror(*words, "--data", site.data, cwd=site.data.parent)
    done = subprocess.run(
        ["sh", "-c", f"{lines}\nenv"], env={}, capture_output=True, text=True, check=True
    )
    assert set(told(site, MIRROR_URL, TAG).items()) <= {
        (name, value)
        for name, _, value in (line.partition("=") for line in done.stdout.split("\n"))
    }


def test_a_check_names_the_wheel_that_is_missing(site: Site, tmp_path: Path) -> None:
    data = site.copy(tmp_path / "data")
    wheel = data / "wheels" / "bentoml-1.4.39-py3-none-any.whl"
    wheel.unlink()
    said = hubmirror("openllm", "check", TAG, "--data", data, cwd=tmp_path, code=1)
    assert f"the wheel {wheel.name} is missing" in said


def test_a_check_names_the_model_that_is_missing(site: Site, tmp_path: Path) -> None:
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "hub" / "models--hubmirror--demo")
    said = hubmirror("openllm", "check", TAG, "--data", data, cwd=tmp_path, code=1)
    assert "cannot start" in said
    assert "hubmirror/demo" in said


def test_openllm_serves_a_bento(site: Site, close: Close, home: Path, program: Path) -> None:
    """Told only what `openllm env` prints: model repository, wheels and model are the mirror's."""
    closed = close()
    mirror = closed.mirror(site.data)
    env = {**basics(home, program / "bin"), **told(site, MIRROR_URL, TAG)}
    openllm(closed, program, env, *documented("openllm repo update"))
    assert VERSION in openllm(closed, program, env, "model", "list")
    serve(closed, program, env, *documented("openllm serve llama3.2:1b"))
    assert site.is_served_whole(closed.ask(FACTS, "{}"))
    asked = mirror.requests()
    commit_hash = site.record.commit_hash
    assert f"GET /api/models/hubmirror/demo/tree/{commit_hash} 200" in asked
    assert f"GET /hubmirror/demo/resolve/{commit_hash}/model.safetensors 200" in asked
    assert "GET /-/wheels/bentoml-1.4.39-py3-none-any.whl 200" in asked


def test_openllm_serves_an_unmodified_bento(
    site: Site, close: Close, home: Path, program: Path, tmp_path: Path
) -> None:
    """The mirror is huggingface.co, by name and by certificate; no setting names a hub."""
    data, ca = site.copy(tmp_path / "data"), tmp_path / "hubmirror-ca"
    unmodified = data / "git" / "github.com" / "site" / "models.git"
    clone = documented(
        "git clone --bare https://github.com/bentoml/openllm-models "
        "data/git/github.com/site/models.git",
        {
            "https://github.com/bentoml/openllm-models": str(site.repository),
            "data/git/github.com/site/models.git": str(unmodified),
        },
    )
    git(tmp_path, *clone)
    hubmirror(*documented("hubmirror ca init"), "--ca", ca, cwd=tmp_path)
    closed = close("huggingface.co")
    _, *serving = documented(
        "hubmirror serve --host 0.0.0.0 --tls --tls-port 443 "
        "--names huggingface.co --names mirror.site",
        {"0.0.0.0": "127.0.0.1"},
    )
    mirror = closed.mirror(data, *serving, "--ca", str(ca))
    _, _, *words = documented(
        "hubmirror openllm env https://mirror.site llama3.2:1b --ca-file /etc/ssl/hubmirror.pem",
        {"https://mirror.site": ENDPOINT, "/etc/ssl/hubmirror.pem": str(ca / "ca.pem")},
    )
    env = told(site, *words, data=data)
    assert env.pop("HF_ENDPOINT") == ENDPOINT
    env |= basics(home, program / "bin")
    add = documented("openllm repo add site https://github.com/site/models")
    openllm(closed, program, env, *add)
    openllm(closed, program, env, *documented("openllm repo update"))
    serve(closed, program, env, *documented("openllm serve llama3.2:1b --repo site"))
    [cloned] = (home / ".openllm" / "repos" / "github.com" / "site").rglob("bento.yaml")
    assert f"endpoint: {ENDPOINT}\n" in cloned.read_text()
    assert site.is_served_whole(closed.ask(FACTS, "{}"))
    wanted = f"GET /hubmirror/demo/resolve/{site.record.commit_hash}/model.safetensors 200"
    assert wanted in mirror.requests()
