"""Environments of OpenLLM's generations and of BentoML, made once from locks by uv.

Each list in requirements/ was made from its `.in` beside it:

    uv pip compile NAME.in --python-version 3.11 --generate-hashes --no-header --no-annotate
        --no-emit-index-url -o NAME.txt

with `--override openllm-0.5.overrides` for 0.5, which leaves out vLLM and what it takes with it,
and `--no-emit-package torch` for 0.4, whose torch is that of the CPU alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.clients.venvs import ENVIRONMENTS

PYTHON = "3.11"  # OpenLLM 0.4 and 0.5 know no newer one, and the locks are for it
TORCH = "HUBMIRROR_TEST_TORCH"
_REQUIREMENTS = Path(__file__).parent / "requirements"


def environment(name: str, *, gigabytes: float, torch: str = "") -> Path:
    """The folder of an environment, made where it is missing or out of date: what its list says,
    and the CPU wheel of a version of torch. Skips the test where that cannot be."""
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed beside hubmirror")
    lock = _REQUIREMENTS / f"{name}.txt"
    folder = ENVIRONMENTS / name
    wanted = f"{sys.prefix}\n{torch}\n{lock.read_text()}"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    stamp = folder / "made-from"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with _locked(ENVIRONMENTS / f"{name}.lock"):
        if not stamp.is_file() or stamp.read_text() != digest:
            shutil.rmtree(folder, ignore_errors=True)
            free = shutil.disk_usage(ENVIRONMENTS).free / 1e9
            if free < gigabytes:
                pytest.skip(f"{name} takes {gigabytes} GB, and {free:.1f} GB are free")
            _make(folder, lock, torch)
            stamp.write_text(digest)
    return folder


def _make(folder: Path, lock: Path, torch: str) -> None:
    made = _uv("venv", "--quiet", "--no-python-downloads", "--python", PYTHON, str(folder))
    if made.returncode:
        pytest.skip(f"there is no Python {PYTHON} on this machine: {made.stderr.strip()}")
    python = str(folder / "bin" / "python")
    with TemporaryDirectory(prefix="hubmirror-torch-") as place:
        wheel = _torch(torch, Path(place), python) if torch else None
        done = _uv("pip", "sync", "--quiet", "--python", python, "--require-hashes", str(lock))
        if done.returncode == 0 and wheel is not None:
            words = ("--quiet", "--python", python, "--no-deps", str(wheel))
            done = _uv("pip", "install", *words)
        if done.returncode:
            raise RuntimeError(f"{folder.name} cannot be made:\n{done.stderr}")


def _torch(version: str, place: Path, python: str) -> Path:
    """A wheel of torch for the CPU: of the file or folder that is named to us, else as pip finds
    one, which must be set to an index that has them."""
    pattern = f"torch-{version}*.whl"
    if named := os.environ.get(TORCH):
        path = Path(named)
        found = [path] if path.is_file() else sorted(path.glob(pattern))
        if not found:
            pytest.skip(f"{TORCH} names {named}, where there is no {pattern}")
        return found[0]
    command = [sys.executable, "-m", "pip", "--python", python, "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(place), f"torch=={version}+cpu"]
    subprocess.run(command, capture_output=True, check=False)
    for wheel in place.glob(pattern):
        return wheel
    return pytest.skip(f"pip finds no torch {version} for the CPU; name a wheel by {TORCH}")


def _uv(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
