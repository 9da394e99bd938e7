"""The private parts of BentoML that hubmirror uses: each is checked, in each supported version."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.carried import hubmirror
from tests.folders import COMMIT, make_managed

pytest.importorskip("bentoml", reason="BentoML is not installed in this environment")

import bentoml.models

from mirror.openllm.bentoml_adapter import missing_parts

VERSIONS = ("1.4.20", "1.4.40")
"""The lowest version that pyproject.toml allows, and the newest that was tested."""


def test_the_installed_version_has_all_parts() -> None:
    assert missing_parts() == []


def test_a_missing_parameter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bentoml.models, "create", lambda tag: tag)
    assert missing_parts() == ["parameter _model_store of bentoml.models.create"]


def test_a_version_without_a_part_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr("bentoml._internal.models.ModelStore")
    said = hubmirror(tmp_path, "bento", "export", "a:b", status=1).output
    assert "cannot be used: it has no bentoml._internal.models.ModelStore. Install" in said


@pytest.mark.clients
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_bento_is_added_with_each_version(version: str, tmp_path: Path) -> None:
    python = _environment(tmp_path / "venv", version)
    make_managed(tmp_path / "data" / "hub")
    command = [str(python), "-m", "mirror", "bento", "add", "Org/Model", "--data", "data"]
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"org--model:{COMMIT}"), done.stderr


def _environment(folder: Path, version: str) -> Path:
    """The Python of a new environment with hubmirror's dependencies and a version of BentoML."""
    pytest.importorskip("uv", reason="uv is not installed in this environment")
    uv = [sys.executable, "-m", "uv"]
    python = folder / "bin" / "python"
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    repository = Path(__file__).parents[2]
    pyproject = str(repository / "pyproject.toml")
    subprocess.run(
        [*uv, "pip", "install", "--quiet", "--python", str(python), "-r", pyproject,
         f"bentoml=={version}"],
        check=True,
    )  # fmt: skip
    return python
