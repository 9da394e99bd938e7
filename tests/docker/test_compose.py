"""docker-compose.yml, run by a real engine: the mirror, its token, its replicas, a node cache."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import pytest
import yaml

from tests.docker.conftest import SITE, Clone
from tests.docker.engine import ROOT, Engine
from tests.folders import Content, make_managed
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]

SCRIPTS = Path(__file__).parent / "scripts"
MIB = 1 << 20
MIRROR = {"HF_ENDPOINT": "http://mirror:8400", "HF_HOME": "/tmp/hf"}
LOAD = ("sh", "-c", "hf download hubmirror/demo --local-dir /tmp/model && ls /tmp/model")
DOWNLOAD = ("hf", "download", "hubmirror/demo", "--local-dir", "/tmp/model")
OUT = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"


def build(engine: Engine) -> None:
    """Also proves that docker-compose builds what it starts."""
    engine.run("docker-compose", "--profile", "cluster", "build")


def is_healthy(clone: Clone, service: str) -> bool:
    health = ("inspect", "--format", "{{.State.Health.Status}}", clone.container(service))
    return clone.engine.docker(*health) == "healthy"


def test_the_demo_of_a_fresh_clone_reaches_a_client_on_an_internal_network(clone: Clone) -> None:
    clone.compose("up", "--detach")
    clone.join("mirror")
    until(lambda: is_healthy(clone, "mirror"), 120, 1)
    assert "OSError" in clone.client("python3", "-c", OUT, code=1)
    hashes = "cd /tmp/model && find . -type f ! -path './.cache/*' -exec sha256sum {} +"
    said = clone.client("sh", "-c", f"{' '.join(DOWNLOAD)} && {hashes}", variables=MIRROR)
    lines = [line.split("  ") for line in said.splitlines() if "  ./" in line]
    sent = {path: digest for digest, path in lines}
    [snapshot] = (clone.folder / "data/hub/models--hubmirror--demo/snapshots").iterdir()
    assert sent == {
        f"./{file.relative_to(snapshot)}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in snapshot.rglob("*")
        if file.is_file()
    }
    url = "http://mirror:8400/hubmirror/demo"
    cloned = clone.client("sh", "-c", f"git clone {url} /tmp/one && ls /tmp/one")
    assert "model.safetensors" in cloned
    write = ("exec", clone.container("mirror"), "touch", "/srv/data/hub/new")
    assert "Read-only file system" in clone.engine.docker(*write, code=1)


def test_a_token_closes_the_mirror(clone: Clone, tmp_path: Path) -> None:
    token = secrets.token_hex()
    file = tmp_path / "token"
    file.write_text(token)
    clone.variables["HUBMIRROR_TOKEN_FILE"] = str(file)
    clone.variables["COMPOSE_FILE"] = "docker-compose.yml:deploy/docker/token.yml"
    clone.compose("up", "--detach")
    clone.join("mirror")
    until(lambda: "approval" in clone.client(*DOWNLOAD, variables=MIRROR, code=None), 60, 1)
    clone.client(*DOWNLOAD, variables={**MIRROR, "HF_TOKEN": token})


def test_a_rolling_update_breaks_no_download(clone: Clone) -> None:
    body = secrets.token_bytes(28 * MIB)
    make_managed(clone.folder / "data" / "hub", Content({"model.safetensors": body}))
    clone.compose("up", "--detach", "balancer")
    clone.join("balancer")
    before = [clone.container(f"replica-{number}") for number in (1, 2, 3)]
    url = "http://balancer:8400/Org/Model/resolve/main/model.safetensors"
    ready = "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=10).read(1)"
    until(lambda: "Error" not in clone.client("python3", "-c", ready, url, code=None), 60, 1)
    downloads = clone.engine.docker(
        "run", "--detach", "--network", SITE, f"--volume={SCRIPTS}:/scripts:ro",
        "--entrypoint", "python3", "hubmirror:slim",
        "/scripts/download.py", url, hashlib.sha256(body).hexdigest(),
    )  # fmt: skip
    until(lambda: "started" in clone.engine.docker("logs", downloads), 60, 0.5)
    said = clone.engine.run(
        "deploy/docker/roll", cwd=clone.folder,
        variables={**clone.variables, "COMPOSE": "docker-compose", "ROLL_SECONDS": "300"},
    )  # fmt: skip
    assert said.count("is replaced") == 3
    clone.engine.docker("stop", "--time", "120", downloads)
    told = clone.engine.docker("logs", downloads).splitlines()[-1]
    assert clone.engine.docker("wait", downloads) == "0", told
    assert int(told) >= 8
    after = [clone.container(f"replica-{number}") for number in (1, 2, 3)]
    assert not set(before) & set(after)


def test_a_cache_of_a_node_fetches_from_the_mirror(clone: Clone) -> None:
    """With the arguments, the user and the read-only system that the DaemonSet gives it."""
    clone.compose("up", "--detach", "mirror")
    clone.join("mirror", "hubmirror.hubmirror.svc")
    manifest = ROOT / "deploy/kubernetes/node-cache/node-cache.yaml"
    pod = next(yaml.safe_load_all(manifest.read_text()))["spec"]["template"]["spec"]
    [owner], [cache] = pod["initContainers"], pod["containers"]
    volume = ("--volume", "node:/srv/data")
    clone.engine.docker(
        "run", "--rm", "--network", "none", "--read-only", "--user", "0", "--cap-drop", "ALL",
        "--cap-add", *owner["securityContext"]["capabilities"]["add"], *volume,
        "--entrypoint", owner["command"][0], owner["image"], *owner["command"][1:],
    )  # fmt: skip
    clone.engine.docker(
        "run", "--detach", "--network", SITE, "--network-alias", "hubmirror-node",
        "--read-only", "--user", str(cache["securityContext"]["runAsUser"]), "--cap-drop", "ALL",
        *volume, "--tmpfs", "/tmp", "--volume", "/var/lib/hubmirror",
        cache["image"], *cache["args"],
    )  # fmt: skip
    node = {**MIRROR, "HF_ENDPOINT": "http://hubmirror-node:8400"}
    until(lambda: "model.safetensors" in clone.client(*LOAD, variables=node, code=None), 60, 1)
    clone.compose("stop", "mirror")
    assert "model.safetensors" in clone.client(*LOAD, variables=node)
