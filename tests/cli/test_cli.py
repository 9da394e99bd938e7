"""The commands `serve --demo` and `ls`, and their settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mirror.cli import main
from tests.folders import COMMIT, OLDER, Content, make_classic, make_managed


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder. Commands run in its parent folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def _run(*words: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, words, terminal_width=200)
    assert result.exit_code == status, result.output
    return result.output


def test_demo_makes_a_model_once(data: Path) -> None:
    assert "hubmirror/demo" in _run("demo")
    assert _run("demo") == ""
    (row,) = [json.loads(line) for line in _run("ls", "--json").splitlines()]
    assert (row["repo_id"], row["status"], row["files"]) == ("hubmirror/demo", "complete", 6)


def test_ls_without_repositories(data: Path) -> None:
    assert _run("ls") == "The sources have no repositories yet.\n"


def test_ls_shows_why_a_revision_is_not_visible(data: Path) -> None:
    make_classic(data / "hub")
    listed = " ".join(_run("ls").split())
    assert "waiting: no pull has recorded it" in listed
    assert "--source hf-cache:data/hub" in listed


def test_ls_shows_shadowed_repositories(data: Path, tmp_path: Path) -> None:
    make_managed(data / "hub")
    make_classic(tmp_path / "other", Content({"a": b"b"}, OLDER))
    rows = _run("ls", "--json", "--source", f"hf-cache:{tmp_path}/other").splitlines()
    assert [(json.loads(row)["commit_hash"], json.loads(row)["status"]) for row in rows] == [
        (COMMIT, "complete"),
        (OLDER, "shadowed"),
    ]


def test_ls_shows_partial_revisions(data: Path, tmp_path: Path) -> None:
    make_classic(tmp_path / "other")
    row = json.loads(_run("ls", "--json", "--source", f"hf-cache:{tmp_path}/other"))
    assert row["status"] == "partial"


def test_settings_come_from_flag_environment_and_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in-file", "in-environment", "in-flag"):
        make_managed(tmp_path / name / "hub")
    (tmp_path / "hubmirror.toml").write_text('[serve]\ndata = "in-file"\n')
    assert "in-file/hub" in _run("ls", "--json")
    monkeypatch.setenv("HUBMIRROR_DATA", "in-environment")
    assert "in-environment/hub" in _run("ls", "--json")
    assert "in-flag/hub" in _run("ls", "--json", "--data", "in-flag")


def test_a_missing_data_folder_names_the_next_step(data: Path) -> None:
    data.rmdir()
    output = _run("ls", status=1)
    assert "data folder data is not there" in output
    assert "--source hf-cache:FOLDER" in output


def test_a_source_without_a_data_folder(data: Path, tmp_path: Path) -> None:
    data.rmdir()
    make_classic(tmp_path / "other")
    assert COMMIT in _run("ls", "--json", "--source", f"hf-cache:{tmp_path}/other")
    assert not data.exists()
