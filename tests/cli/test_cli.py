"""The commands `demo`, `ls` and `serve`, and their settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from mirror.cli import main
from mirror.core.errors import (
    BlobUnreadableError,
    RepositoryNotFoundError,
    XetHashNotFoundError,
    operator_text,
)
from mirror.core.repo import Repo
from mirror.core.units import human
from tests.folders import COMMIT, FILES, MODEL, OLDER, Content, make_classic, make_managed
from tests.servers import run_command
from tests.terminal import run_on_terminal
from tests.waiting import until


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


LONG = "a-very-long-organisation-name/a-model-whose-name-is-as-long-as-those-of-today-are-8bit-awq"


def test_ls_breaks_no_id_on_a_terminal(data: Path) -> None:
    make_managed(data / "hub", Content(repo=Repo.parse(LONG)))
    shown = run_on_terminal(data.parent, "ls", columns=80)
    assert LONG in shown
    assert COMMIT[:8] in shown


def test_ls_shows_the_repositories_that_are_named(data: Path) -> None:
    make_managed(data / "hub")
    make_managed(data / "hub", Content(repo=Repo.parse("org/other")))
    make_managed(data / "hub", Content(repo=Repo.parse("datasets/org/data")))
    names = [json.loads(row)["repo_id"] for row in _run("ls", "--json").splitlines()]
    assert sorted(names) == ["Org/Model", "org/data", "org/other"]
    shown = _run("ls", "org/model", "datasets/org/data", "--json").splitlines()
    assert [json.loads(row)["repo_id"] for row in shown] == ["org/data", "Org/Model"]
    said = _run("ls", "org/data", "Org/Model", "org/nope", status=1)
    assert "No source has org/data. Did you mean datasets/org/data?" in said
    assert "No source has org/nope. List what is here with `hubmirror ls`." in said
    assert "Org/Model" in said


def test_ls_adds_up_what_is_listed(data: Path) -> None:
    make_managed(data / "hub")
    make_managed(data / "hub", Content(repo=Repo.parse("org/twin")))
    make_classic(data / "hub", Content({"a": b"b"}, repo=Repo.parse("org/waits")))
    size = human(sum(map(len, FILES.values())))
    *_, totals = [line for line in _run("ls").splitlines() if "revisions (" in line]
    assert totals == f"3 repositories, 3 revisions (2 complete, 1 waiting), {size}"


@pytest.fixture
def unprivileged() -> Sequence[str]:
    """A command under which no process reads what its user may not read, not even root's."""
    if os.getuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root reads every file, and setpriv (util-linux) is not installed")
    drop = "-dac_override,-dac_read_search"
    return "setpriv", "--bounding-set", drop, "--inh-caps", drop


def _under(unprivileged: Sequence[str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [*unprivileged, sys.executable, "-m", "mirror", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_cache_of_another_user_is_not_arriving(data: Path, unprivileged: Sequence[str]) -> None:
    """As after a copy by root with the umask 077."""
    folder = make_managed(data / "hub")
    folder.chmod(0)
    said = _under(unprivileged, "ls")
    text = f"Error: A source (managed) cannot be read: Permission denied. The path is {data}/hub"
    assert (said.returncode, said.stderr.strip(), said.stdout) == (1, text, "")
    said = _under(unprivileged, "serve", "--port", "0")
    assert (said.returncode, said.stderr.strip()) == (1, text)

    make_managed(data / "hub", Content(repo=Repo.parse("org/other")))
    with run_command(data.parent, "--workers", "1", under=unprivileged) as command:
        answer = httpx2.get(f"{command.url}/api/models/Org/Model")
        assert answer.status_code == 503
        assert "Permission denied" in answer.json()["error"]
        assert str(data) not in answer.text
        (data / "hub" / "models--org--other").chmod(0)
        until(lambda: httpx2.get(f"{command.url}/readyz").status_code == 503)
        answer = httpx2.get(f"{command.url}/readyz")
        assert answer.text == "A source (managed) cannot be read: Permission denied.\n"


def test_one_unreadable_repository_leaves_the_others_in_ls(
    data: Path, unprivileged: Sequence[str]
) -> None:
    make_managed(data / "hub").chmod(0)
    make_managed(data / "hub", Content(repo=Repo.parse("org/other")))
    said = _under(unprivileged, "ls")
    rows = {line.split()[0]: line for line in said.stdout.splitlines()}
    assert f"Permission denied. The path is {data}/hub/models--Org--Model" in rows["Org/Model"]
    assert "complete" in rows["org/other"]
    assert "may still be running" not in said.stdout


def test_one_unreadable_source_leaves_the_others_in_ls(
    data: Path, tmp_path: Path, unprivileged: Sequence[str]
) -> None:
    make_managed(data / "hub")
    (tmp_path / "closed").mkdir(0)
    said = _under(unprivileged, "ls", "--source", f"hf-cache:{tmp_path}/closed")
    assert said.returncode == 1
    assert "Org/Model" in said.stdout
    assert f"Permission denied. The path is {tmp_path}/closed" in said.stderr


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("203.0.113.9", "it is not an address of this host. Choose one of its addresses with"),
        ("no-such-host.invalid", "this host does not know the name. Choose an address"),
    ],
)
def test_a_host_that_is_not_this_one(data: Path, host: str, told: str) -> None:
    said = _run("serve", "--host", host, status=1)
    assert f"Cannot listen on {host} port 8400: {told}" in said
    assert "another port" not in said


def test_names_without_tls_are_refused(data: Path) -> None:
    said = _run("serve", "--names", "huggingface.co", status=1)
    assert "--names huggingface.co is a name for https, which is off. Add --tls" in said
    (data.parent / "hubmirror.toml").write_text('[serve]\nnames = ["huggingface.co"]\n')
    assert "Add --tls" in _run("serve", status=1)
    assert "Cannot listen" in _run("serve", "--no-tls", "--host", "203.0.113.9", status=1)


def test_the_operator_is_not_sent_to_the_operator(data: Path) -> None:
    """The next step of each message for clients is the operator's own in a command."""
    for error in (
        RepositoryNotFoundError(MODEL), BlobUnreadableError("a", "b"),
        XetHashNotFoundError(MODEL, COMMIT, "c"),
    ):  # fmt: skip
        assert "perator" in str(error)
        assert "perator" not in operator_text(error)
    assert operator_text(RepositoryNotFoundError(MODEL)).endswith(
        "is not in this mirror. Add it, or check the spelling."
    )
    make_managed(data / "hub")
    next((data / "hub" / MODEL.folder_name / "blobs").iterdir()).unlink()
    said = _run("ls", "Org/Model")
    assert "perator" not in said
