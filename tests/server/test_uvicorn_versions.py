"""The lowest and the newest uvicorn within the bounds of pyproject.toml."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ("test_uvicorn_protocol.py", "test_sending.py")


def bounds() -> tuple[str, str]:
    """The lowest version, and the first that is too new."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = [one for one in project["dependencies"] if one.startswith("uvicorn")]
    found = re.fullmatch(r"uvicorn>=([\d.]+),<([\d.]+)", line)
    assert found
    return found[1], found[2]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("requirement", ["uvicorn=={0}", "uvicorn<{1}"], ids=["lowest", "newest"])
def test_the_server_runs_on_it(tmp_path: Path, requirement: str) -> None:
    wanted = requirement.format(*bounds())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "uvicorn"]
    installed = subprocess.run([*pip, wanted], cwd=tmp_path, capture_output=True, check=False)
    if installed.returncode:
        pytest.skip(f"pip cannot install {wanted} here: no index is reached")
    path = f"{tmp_path / 'uvicorn'}{os.pathsep}{ROOT}"
    checks = "from mirror.server.uvicorn_adapter import check; check()"
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", checks], env=environment, check=True, cwd=ROOT)
    tests = [f"tests/server/{name}" for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *tests],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
