"""Sources that are declared one level off say what the folder is, and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.config.specs import SourceSpec
from mirror.sources.wrong_level import wrong_level
from tests.carried import hubmirror
from tests.folders import COMMIT, MODEL, make_classic, make_plain


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of huggingface_hub: its cache is the folder hub in it."""
    make_classic(tmp_path / "hf" / "hub")
    return tmp_path / "hf"


def hint(text: str) -> str:
    return wrong_level(SourceSpec.parse(text))


def test_the_folder_above_a_cache(home: Path) -> None:
    assert f"--source hf-cache:{home / 'hub'}" in hint(f"hf-cache:{home}")
    assert hint(f"hf-cache:{home / 'hub'}") == ""


def test_the_folders_below_a_cache(home: Path) -> None:
    repo = home / "hub" / MODEL.folder_name
    for below in (repo, repo / "snapshots", repo / "snapshots" / COMMIT):
        assert f"--source hf-cache:{home / 'hub'}" in hint(f"hf-cache:{below}")


def test_a_snapshot_is_not_a_plain_folder(home: Path) -> None:
    snapshot = home / "hub" / MODEL.folder_name / "snapshots" / COMMIT
    assert f"--source hf-cache:{home / 'hub'}" in hint(f"folder:{snapshot}=Org/Model")
    assert "has its own" not in hint(f"folder:{make_plain(home / 'plain')}=Org/Model")


def test_a_store_of_bentos(tmp_path: Path) -> None:
    entry = tmp_path / "bentoml" / "models" / "tiny" / "v1"
    entry.mkdir(parents=True)
    (entry / "model.yaml").write_text("name: tiny\n")
    store = tmp_path / "bentoml"
    assert f"--source bento:{store}" in hint(f"bento:{store / 'models'}")
    assert f"--source bento:{store}" in hint(f"hf-cache:{store}")
    assert hint(f"bento:{store}") == ""


def test_a_cache_of_modelscope(tmp_path: Path) -> None:
    repo = make_plain(tmp_path / "hub" / "models" / "Qwen" / "Tiny")
    (repo / ".msc").touch()
    assert f"--source folder:{repo}=Qwen/Tiny" in hint(f"hf-cache:{tmp_path}")


def test_one_model_is_not_a_cache(tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "model")
    assert f"--source folder:{folder}=ORG/NAME" in hint(f"hf-cache:{folder}")


def test_commands_refuse_it(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for words in (("ls",), ("verify",), ("adopt",)):
        output = hubmirror(data, *words, "--source", f"hf-cache:{home}", status=1)
        assert f"--source hf-cache:{home / 'hub'}" in output.output.replace("\n", "")


def test_a_cache_is_not_a_data_folder(home: Path) -> None:
    assert "is an HF cache" in hubmirror(home / "hub", "ls", status=1).output


def test_an_absent_data_folder_is_not_created_by_a_pull(tmp_path: Path) -> None:
    typo = tmp_path / "typo"
    assert "does not exist" in hubmirror(typo, "pull", "Org/Model", status=1).output
    assert not typo.exists()


def test_adopt_names_a_source_that_does_not_exist(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    source = f"hf-cache:{tmp_path / 'typo'}"
    assert "does not exist" in hubmirror(data, "adopt", "--source", source, status=1).output
