"""A state folder that is full, or that is deleted while a server runs: answers are the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.folders import FILES, make_managed, make_plain
from tests.servers import run_command

# A state folder on a disk of its own that is full from the start, in a namespace of its own.
FULL = (
    "unshare", "--map-root-user", "--mount", "sh", "-c",
    "mount -t tmpfs -o size=64k none state && "
    "{ head -c 1000000 /dev/zero > state/filled 2>/dev/null; exec \"$@\"; }", "sh",
)  # fmt: skip


def _answers(url: str) -> None:
    for repo in ("Org/Model", "Org/Plain"):
        info = httpx2.get(f"{url}/api/models/{repo}", timeout=20).json()
        names = {one["rfilename"] for one in info["siblings"]}
        assert names - {".gitattributes"} == set(FILES)
        for path in ("config.json", "model.safetensors"):
            answer = httpx2.get(f"{url}/{repo}/resolve/main/{path}", timeout=20)
            assert (answer.status_code, answer.content) == (200, FILES[path])
    assert httpx2.get(f"{url}/readyz", timeout=20).status_code == 200
    assert len(httpx2.get(f"{url}/api/models", timeout=20).json()) == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_managed(tmp_path / "data" / "hub")
    make_plain(tmp_path / "plain")
    (tmp_path / "state").mkdir()
    return tmp_path


def _words(folder: Path) -> tuple[str, ...]:
    source = f"folder:{folder}/plain=Org/Plain"
    return "--workers", "1", "--source", source, "--state", str(folder / "state")


def test_a_state_folder_that_is_full(folder: Path) -> None:
    works = shutil.which("unshare") and not subprocess.run([*FULL, "true"], cwd=folder).returncode
    if not works:
        pytest.skip("a small disk needs unshare (util-linux), and the right to mount a tmpfs")
    errors = folder / "errors"
    with (
        errors.open("w") as log,
        run_command(folder, *_words(folder), under=FULL, errors=log) as command,
    ):
        for _ in range(3):
            _answers(command.url)
    assert "Traceback" not in errors.read_text()


def test_a_state_folder_that_is_deleted(folder: Path) -> None:
    errors = folder / "errors"
    with errors.open("w") as log, run_command(folder, *_words(folder), errors=log) as command:
        for _ in range(3):
            _answers(command.url)
            shutil.rmtree(folder / "state", ignore_errors=True)
    assert "Traceback" not in errors.read_text()
