"""A Docker engine of the tests' own: its socket, its images and its containers are in one folder.

It changes nothing of this machine. To build, it runs on the machine's network, with no bridge and
no rule of the firewall. To run containers, it is in a network namespace of its own, from which no
packet gets out. Nothing can be pulled from a registry, so the base image is made by debootstrap,
as slim as that of Debian.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import until

ROOT = Path(__file__).parents[2]
KEPT = "HUBMIRROR_TEST_DOCKER"
"""A variable with the folder that keeps the engine's images for the next run."""

_PROGRAMS = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "docker-compose": "docker-compose",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
}
_PORTS = ("HUBMIRROR_PORT", "PROMETHEUS_PORT", "OPENLLM_PORT")
_OWN_AUTHORITIES = Path("/usr/local/share/ca-certificates")
_LEFT_OUT = ("doc", "groff", "info", "lintian", "locale", "man")
_APT = """DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What docker and docker-compose need to reach it, and a build to reach the indexes."""
        authorities = sorted(_OWN_AUTHORITIES.glob("*.crt"))
        return {
            **{name: text for name, text in os.environ.items() if "HUBMIRROR" not in name},
            "DOCKER_HOST": f"unix://{self.folder / 'docker.sock'}",
            "DOCKER_BUILDKIT": "0",
            "BUILD_NETWORK": "host",
            **dict.fromkeys(_PORTS, "127.0.0.1:0"),
            "SITE_CERTIFICATES": "".join(one.read_text() for one in authorities).strip(),
        }

    def run(
        self,
        *words: str,
        cwd: Path = ROOT,
        variables: Mapping[str, str] | None = None,
        code: int | None = 0,
        timeout: float = 900,
    ) -> str:
        """Run a command that speaks to the engine, until it ends with `code`; what it says."""
        done = subprocess.run(
            words, cwd=cwd, env={**self.environment, **(variables or {})}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert code in (None, done.returncode), f"{' '.join(words)}:\n{done.stdout[-8000:]}"
        return done.stdout.strip()

    def docker(self, *words: str, code: int | None = 0) -> str:
        """Run `docker`."""
        return self.run("docker", *words, code=code)

    def remove_containers(self) -> None:
        """Remove all containers, with their volumes and networks."""
        if containers := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *containers)
        self.docker("volume", "prune", "--force")
        self.docker("network", "prune", "--force")

    def build(self, target: str, image: str, *more: str, code: int = 0) -> str:
        """Build a target of the Dockerfile."""
        arguments = ("--build-arg", f"SITE_CERTIFICATES={self.environment['SITE_CERTIFICATES']}")
        words = ("build", "--network", "host", *arguments, *more, "--target", target)
        return self.docker(*words, "--tag", image, ".", code=code)

    def size(self, image: str) -> int:
        """The size of an image, in bytes."""
        return int(self.docker("image", "inspect", "--format", "{{.Size}}", image))


@contextlib.contextmanager
def engine_folder() -> Iterator[Path]:
    """A folder for an engine, with the base image. Skips where no engine can run."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker engine")
    missing = sorted({package for name, package in _PROGRAMS.items() if not shutil.which(name)})
    if missing:
        pytest.skip(f"a Docker engine needs Debian's {', '.join(missing)}")
    with contextlib.ExitStack() as stack:
        folder = Path(os.environ.get(KEPT) or stack.enter_context(_temporary()))
        folder.mkdir(parents=True, exist_ok=True)
        with running(folder, is_closed=False) as engine:
            if not engine.docker("images", "--quiet", "debian:bookworm-slim"):
                _make_base(engine)
        yield folder


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    """A folder on a disk: overlays do not work on each file system that /tmp may be."""
    with tempfile.TemporaryDirectory(prefix="hubmirror-docker-", dir="/var/tmp") as folder:
        yield folder


@contextlib.contextmanager
def running(folder: Path, *, is_closed: bool) -> Iterator[Engine]:
    """Run the engine of a folder: to build, or, closed, to run containers, which are removed at
    the end."""
    engine, log = Engine(folder), folder / "dockerd.log"
    command = [
        "dockerd", "--host", f"unix://{folder / 'docker.sock'}", "--data-root", f"{folder}/data",
        "--exec-root", f"{folder}/run", "--pidfile", f"{folder}/docker.pid", "--bridge", "none",
        "--log-level", "warn",
    ]  # fmt: skip
    if is_closed:
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    else:
        command += ["--iptables=false", "--ip-forward=false", "--ip-masq=false"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or _answers(engine), 60, 0.2)
        if process.poll() is not None:
            pytest.skip(f"this machine starts no Docker engine: {log.read_text()[-500:]}")
        yield engine
        engine.remove_containers()
    finally:
        process.terminate()
        process.wait(60)
        for mounted in sorted(_mounts_below(folder), reverse=True):
            subprocess.run(["umount", mounted], check=True)


def _answers(engine: Engine) -> bool:
    words = ["docker", "version"]
    return not subprocess.run(
        words, env=engine.environment, capture_output=True, check=False
    ).returncode


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]


def _make_base(engine: Engine) -> None:
    """Import what Debian's image of this name has, with the same files left out."""
    base = engine.folder / "base"
    engine.run("debootstrap", "--variant=minbase", "bookworm", str(base))
    left_out = "".join(f"path-exclude /usr/share/{one}/*\n" for one in _LEFT_OUT)
    (base / "etc/dpkg/dpkg.cfg.d/slim").write_text(left_out)
    (base / "etc/apt/apt.conf.d/docker-clean").write_text(_APT)
    for folder in (
        *(base / "usr/share" / one for one in _LEFT_OUT),
        base / "var/lib/apt/lists",
        base / "var/cache/apt",
    ):
        shutil.rmtree(folder, ignore_errors=True)
    engine.run("sh", "-c", f"tar -C {base} -c . | docker import - debian:bookworm-slim")
    shutil.rmtree(base)
