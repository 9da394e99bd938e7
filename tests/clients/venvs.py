"""Environments of the clients: made once from pinned lists, and kept below `.venvs/`."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venvs"


def environment(name: str) -> Path:
    """The folder of a client's environment; it is made where it is missing or out of date.

    Several test processes may ask at once: one makes it and the others wait. The stamp is written
    last, so an environment that was left half made is made again.
    """
    folder, wanted = ENVIRONMENTS / name, pins(name).read_text()
    digest = hashlib.sha256(f"{sys.version}\n{sys.prefix}\n{wanted}".encode()).hexdigest()
    stamp = folder / "made-from"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with _locked(ENVIRONMENTS / f"{name}.lock"):
        if not stamp.is_file() or stamp.read_text() != digest:
            shutil.rmtree(folder, ignore_errors=True)
            make = _make_node if name == "node" else _make_python
            make(folder, pins(name))
            stamp.write_text(digest)
    return folder


def pins(name: str) -> Path:
    """The list of an environment's packages, each with its version."""
    if name == "node":
        return HERE / "node" / "package.json"
    return HERE / "requirements" / f"{name}.txt"


def _make_python(folder: Path, requirements: Path) -> None:
    """An environment without pip: this process's own pip fills it, which saves seconds."""
    venv.create(folder, symlinks=True)
    python = str(folder / "bin" / "python")
    _run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile",
          "--disable-pip-version-check", "-r", str(requirements)])  # fmt: skip


def _make_node(folder: Path, package: Path) -> None:
    """No lock file is kept: it would name the registry that it was made with."""
    folder.mkdir()
    shutil.copy(package, folder)
    _run(["npm", "install", "--prefix", str(folder), "--no-package-lock", "--no-audit",
          "--no-fund", "--omit=optional", "--loglevel=error"])  # fmt: skip


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[:4]} failed:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
