"""A pull in one terminal, and `hubmirror ls` in another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.filling import FILES, MODEL, Filling
from tests.hub import HubSimulator, refused, slow
from tests.processes import Running, begin
from tests.waiting import until


@pytest.fixture
def pulling(simulator: HubSimulator, filling: Filling, tmp_path: Path) -> Running:
    """A pull whose weights arrive in a minute."""
    simulator.fail(r"GET .*/resolve/.*safetensors", slow(10), times=10)
    words = ("pull", MODEL, "--data", str(filling.data), "--upstream", filling.url)
    running = begin(tmp_path / "pull.log", *words)
    until(lambda: bool(_rows(filling)))
    return running


def _rows(filling: Filling) -> list[dict[str, object]]:
    """The rows of `ls` about a pull of which some bytes have arrived."""
    if not filling.hub.is_dir():
        return []
    rows = [row for row in filling.lines("ls") if row["pull"]]
    return [row for row in rows if row["pull"]["received"]]


def test_ls_shows_a_running_pull_and_the_end_of_a_killed_one(
    pulling: Running, simulator: HubSimulator, filling: Filling
) -> None:
    [row] = _rows(filling)
    total = sum(map(len, FILES.values()))
    assert (row["status"], row["size"], row["refs"]) == ("running", total, ["main"])
    assert row["commit_hash"] == simulator.repo(MODEL).refs["main"]
    said = filling.run("ls").output
    assert f"by process {pulling.process.pid}" in said
    assert "no pull has recorded it" not in said
    assert "hf-cache:" not in said

    assert pulling.kill()
    said = filling.run("ls").output
    assert "stopped: the pull was stopped at" in said
    assert f"Run `hubmirror pull {MODEL}` again" in said
    assert "hf-cache:" not in said

    simulator.faults.clear()
    filling.run("pull", MODEL)
    assert [row["status"] for row in filling.lines("ls")] == ["complete"]


def test_ls_shows_why_a_pull_failed(simulator: HubSimulator, filling: Filling) -> None:
    simulator.fail(r"GET .*/resolve/.*safetensors", refused(403), times=100)
    filling.run("pull", MODEL, status=1)
    [row] = filling.lines("ls")
    assert row["status"] == "failed"
    assert str(row["note"]).startswith("the pull failed: http://127.0.0.1:")
    assert "Correct the token" in str(row["note"])


@pytest.mark.parametrize("command", [("gc",), ("rm", MODEL)])
def test_gc_and_rm_forget_a_stopped_pull(
    pulling: Running, filling: Filling, command: tuple[str, ...]
) -> None:
    filling.run("gc")
    assert _rows(filling)
    assert pulling.kill()
    filling.run(*command)
    assert [row for row in filling.lines("ls") if row["pull"]] == []
