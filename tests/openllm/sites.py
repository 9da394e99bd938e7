"""A data folder, filled on the connected side by our own commands, for an isolated site."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.core.record import Record
from mirror.store.demo import write_demo
from tests.openllm.closed import ROOT
from tests.openllm.model_repository import make
from tests.openllm.pages import documented
from tests.servers import run_command


@dataclass(frozen=True)
class Site:
    """`pulled` into `data` from the model repository, and what a dry run had said before."""

    data: Path
    repository: Path
    record: Record
    dry_run: str
    pulled: str

    def copy(self, folder: Path) -> Path:
        """The same data folder, by hard links."""
        return Path(shutil.copytree(self.data, folder, symlinks=True, copy_function=os.link))

    def is_served_whole(self, answer: str) -> bool:
        """Whether the bento has the model, at its commit, without what it leaves out."""
        facts = json.loads(answer)
        return bool(
            facts["folder"] == self.record.commit_hash
            and facts["files"] == sorted(self.record.files)
            and facts["architectures"] == ["LlamaForCausalLM"]
            and facts["tensors"] > 10
        )


def hubmirror(*words: str | Path, cwd: Path, code: int = 0) -> str:
    """Run `hubmirror`, which must end with a code; what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "mirror", *map(str, words)], cwd=cwd, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def demo_data(folder: Path) -> tuple[Path, Record]:
    """A data folder that holds the demo model."""
    (folder / "hub").mkdir(parents=True)
    return folder, write_demo(folder / "hub")


def fill(folder: Path) -> Site:
    """Bring the bento `tiny`, with what this machine needs to start it."""
    for program in ("git", "uv"):
        if shutil.which(program) is None and not (Path(sys.prefix) / "bin" / program).is_file():
            pytest.skip(f"there is no {program} on this machine")
    upstream, record = demo_data(folder / "upstream")
    repository = make(folder, record.repo.repo_id, record.commit_hash)
    data = folder / "data"
    with run_command(folder, "--data", str(upstream)) as command:
        pull = [
            *documented("hubmirror openllm pull llama3.2:1b"),
            "--data", str(data), "--repository", str(repository),
            "--upstream", command.url, "--glibc", platform.libc_ver()[1],
            "--machine", platform.machine(),
        ]  # fmt: skip
        dry_run = hubmirror(*pull, "--dry-run", cwd=folder)
        assert not [*data.glob("hub/models--*"), *data.glob("wheels/*")]
        pulled = hubmirror(*pull, cwd=folder)
    return Site(data, repository, record, dry_run, pulled)
