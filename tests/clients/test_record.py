"""A site that has what `hubmirror record` wrote about a start is complete for this start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.store.demo import write_demo
from tests.clients.conftest import ROWS, data
from tests.clients.venvs import environment
from tests.folders import COMMIT, make_managed
from tests.recording import carry, recorded, skip_unless_closed

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

SCRIPTS = Path(__file__).parent / "scripts"


def make_demo(hub: Path) -> str:
    hub.mkdir(parents=True)
    return write_demo(hub).commit_hash


def make_dataset(hub: Path) -> str:
    make_managed(hub, data(ROWS, COMMIT))
    return COMMIT


@pytest.mark.parametrize(
    ("client", "script", "make", "repo", "words"),
    [
        ("transformers-4", "transformers/load.py", make_demo, "hubmirror/demo", ["main"]),
        ("transformers-5", "transformers/load.py", make_demo, "hubmirror/demo", ["main"]),
        ("datasets", "datasets/load.py", make_dataset, "Org/Data", ["main", "whole"]),
        ("datasets", "datasets/load.py", make_dataset, "Org/Data", ["main", "streamed"]),
    ],
)
def test_the_same_start_needs_no_network(
    tmp_path: Path,
    client: str,
    script: str,
    make: Callable[[Path], str],
    repo: str,
    words: list[str],
) -> None:
    skip_unless_closed()
    commit_hash = make(tmp_path / "data" / "hub")
    python = environment(client) / "bin" / "python"
    said = carry(tmp_path, [str(python), str(SCRIPTS / script), repo, *words])
    assert "Everything is here: 1 revision" in said
    (entry,) = recorded(tmp_path)
    assert (entry["repo_id"], entry["revision"], entry["commit_hash"]) == (
        repo, "main", commit_hash,
    )  # fmt: skip
    if repo == "hubmirror/demo":
        assert "tokenizer.json" in entry["include"]
        assert "model.safetensors" not in entry["include"]
