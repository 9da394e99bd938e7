"""`hubmirror rm` and `gc`: questions, dry runs, and JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.carried import TWIN, hubmirror, names_below
from tests.folders import OLDER, Content, make_classic, make_managed, repo_dir
from tests.terminal import run_on_terminal


@pytest.fixture
def data(tmp_path: Path) -> Path:
    hub = tmp_path / "data" / "hub"
    old = Content({"old.txt": b"old"}, OLDER)
    make_managed(hub, old, pulled_at=datetime(2025, 1, 1, tzinfo=UTC))
    make_managed(hub)
    make_managed(hub, Content(repo=TWIN))
    return tmp_path / "data"


def _rm(data: Path, *words: str, answer: str = "") -> str:
    return run_on_terminal(data.parent, "rm", *words, "--data", "data", columns=200, answer=answer)


def test_rm_asks_on_a_terminal(data: Path) -> None:
    before = names_below(data)
    question = r"Remove Org/Model \(322\.\d kB\)\? \[y/N\]"
    assert re.search(question, _rm(data, "Org/Model", answer="n\n"))
    assert names_below(data) == before
    assert "Removed Org/Model" in _rm(data, "Org/Model", answer="y\n")
    assert not repo_dir(data / "hub").exists()
    assert "[y/N]" not in _rm(data, "--yes", str(TWIN))
    assert not repo_dir(data / "hub", TWIN).exists()


@pytest.mark.parametrize("target", ["Org/Model", f"Org/Model@{OLDER}", "Org/Twin"])
def test_a_dry_run_of_rm_removes_nothing(data: Path, target: str) -> None:
    before = names_below(data)
    assert f"Would remove {target}: " in hubmirror(data, "rm", "--dry-run", target).output
    assert names_below(data) == before


def test_a_dry_run_of_rm_in_another_source(data: Path, tmp_path: Path) -> None:
    make_classic(tmp_path / "cache", Content({"a": b"b"}, OLDER, repo=TWIN))
    hubmirror(data, "rm", str(TWIN))
    before = names_below(tmp_path / "cache")
    words = "rm", "--dry-run", str(TWIN), "--source", f"hf-cache:{tmp_path / 'cache'}"
    output = hubmirror(data, *words).output
    assert output.startswith(f"Would remove {TWIN} from ")
    assert names_below(tmp_path / "cache") == before


def test_rm_prints_json(data: Path) -> None:
    (row,) = _rows(data, "rm", "--dry-run", f"Org/Model@{OLDER}")
    assert row == {"text": f"Org/Model@{OLDER}", "size": 3, "removed": False}
    (row,) = _rows(data, "rm", f"Org/Model@{OLDER}")
    assert row["removed"]


def test_gc_prints_json(data: Path) -> None:
    first, last = _rows(data, "gc", "--dry-run")
    assert first == {"text": f"Org/Model at {OLDER[:12]}: no ref points to it", "size": 3}
    assert last == {"size": 3, "removed": False}
    assert _rows(data, "gc")[-1] == {"size": 3, "removed": True}
    assert _rows(data, "gc") == [{"size": 0, "removed": True}]


def _rows(data: Path, *words: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in hubmirror(data, *words, "--json").stdout.splitlines()]
