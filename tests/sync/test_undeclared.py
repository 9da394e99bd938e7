"""What `hubmirror pull` finds that is not declared, and what `--prune` removes."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from mirror.openllm.closure import Closure, PinnedModel
from mirror.openllm.wheels import Platform
from mirror.store.cache import Cache
from tests.carried import names_below
from tests.filling import FILES, MODEL, WEIGHTS, Filling, digests
from tests.folders import write
from tests.hub import HubSimulator

DATA = "datasets/org/data"
EXCLUDED = """
[[repo]]
repo_id = "org/model"
exclude = ["*.safetensors"]
"""
DECLARED = f"""{EXCLUDED}
[[repo]]
repo_id = "org/data"
repo_type = "dataset"
revision = "v1"
"""
REST = {path for path in FILES if "safetensors" not in path}


@pytest.fixture
def declared(simulator: HubSimulator, tmp_path: Path) -> Path:
    """A configuration that declares two repositories of the hub."""
    simulator.repo(DATA).commit({"train.csv": b"a,b\n"}, "refs/tags/v1")
    (tmp_path / "hubmirror.toml").write_text(DECLARED)
    return tmp_path / "hubmirror.toml"


def test_undeclared_repositories_are_reported_and_pruned(declared: Path, filling: Filling) -> None:
    filling.run("pull")
    declared.write_text(EXCLUDED)
    assert re.search(rf"Not declared: {DATA} \(\d+ B\)\. Remove it", filling.run("pull").output)
    assert filling.shown("v1", DATA)
    assert f"Removed {DATA}: " in filling.run("pull", "--prune").output
    assert [path.name for path in filling.hub.glob("*--*")] == ["models--org--model"]
    assert "declared" not in filling.run("pull").output


def test_an_undeclared_revision_is_pruned(
    declared: Path, simulator: HubSimulator, filling: Filling
) -> None:
    commit = simulator.repo(MODEL).commit({"a": b"b"}, "other")
    declared.write_text(f'{DECLARED}[[repo]]\nrepo_id = "{MODEL}"\nrevision = "other"\n')
    filling.run("pull")
    declared.write_text(DECLARED)
    assert f"Not declared: {MODEL}@{commit} " in filling.run("pull").output
    filling.run("pull", "--prune")
    assert filling.folder().recorded_commits() == [simulator.repo(MODEL).refs["main"]]
    assert list(filling.folder().refs()) == ["refs/heads/main"]


def test_failed_repositories_are_not_pruned(
    declared: Path, simulator: HubSimulator, filling: Filling
) -> None:
    filling.run("pull")
    del simulator.repos[DATA]
    filling.run("pull", "--prune", status=1)
    assert filling.shown("v1", DATA)


def test_a_failed_pull_prevents_pruning(filling: Filling, tmp_path: Path) -> None:
    """The declared name may be misspelled."""
    filling.run("pull", MODEL)
    (tmp_path / "hubmirror.toml").write_text('[[repo]]\nrepo_id = "org/modle"\n')
    output = filling.run("pull", "--prune", status=1).output
    assert f"Not declared, but kept, because a pull failed: {MODEL} " in output
    assert filling.shown() == FILES


def test_prune_refuses_repository_names(filling: Filling) -> None:
    assert "without repository names" in filling.run("pull", MODEL, "--prune", status=1).output


@pytest.mark.parametrize("words", [["--dry-run", "--prune"], ["--dry-run"]])
def test_a_dry_run_shows_the_removals(declared: Path, filling: Filling, words: list[str]) -> None:
    filling.run("pull", MODEL, "--include", "*")
    filling.run("pull")
    declared.write_text(EXCLUDED)
    before = names_below(filling.data)
    output = filling.run("pull", *words).output
    what = "Would remove" if "--prune" in words else "Not declared:"
    assert f"{what} {DATA} (" in output
    assert f"{what} 2 files of {MODEL}@" in output
    rows = [row for row in filling.lines("pull", *words) if "undeclared" in row]
    assert len(rows) == 2
    assert rows[1]["size"] == 600_000
    assert names_below(filling.data) == before


def test_the_filters_of_the_configuration_apply_to_a_named_repository(
    declared: Path, filling: Filling
) -> None:
    assert set(filling.lines("pull", MODEL, "--dry-run")[0]["files"][0]) >= {"path"}
    filling.run("pull", MODEL)
    assert filling.shown().keys() == REST
    filling.run("pull", MODEL, "--include", "*")
    assert filling.shown() == FILES


def test_filters_of_another_revision_do_not_apply(
    declared: Path, simulator: HubSimulator, filling: Filling
) -> None:
    simulator.repo(MODEL).commit(FILES, "other")
    filling.run("pull", f"{MODEL}@other")
    assert filling.shown("other") == FILES


def test_files_that_the_filters_leave_out_are_reported_and_pruned(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    """The configuration got a filter after the first pull."""
    filling.run("pull", MODEL)
    (tmp_path / "hubmirror.toml").write_text(EXCLUDED)
    commit = simulator.repo(MODEL).refs["main"]
    text = f"Not declared: 2 files of {MODEL}@{commit[:12]} (600.0 kB). Remove it with --prune."
    assert text in filling.run("pull").output
    assert filling.shown() == FILES
    output = filling.run("pull", "--prune").output
    assert f"Removed 2 files of {MODEL}@{commit[:12]}: 600.0 kB freed." in output
    assert filling.shown().keys() == REST
    assert filling.offline({"repo_id": MODEL}) == [
        digests({path: body for path, body in FILES.items() if path in REST})
    ]
    assert filling.record(commit).left_out.keys() == FILES.keys() - REST
    assert len(list(filling.folder().blobs.iterdir())) == len(REST)
    assert "No problems found." in filling.run("verify").output
    assert "declared" not in filling.run("pull", "--prune").output


def test_blobs_of_another_revision_are_kept(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    filling.run("pull", MODEL)
    simulator.repo(MODEL).commit({**FILES, "README.md": b"new"}, "other")
    filling.run("pull", f"{MODEL}@other")
    (tmp_path / "hubmirror.toml").write_text(
        f'{EXCLUDED}[[repo]]\nrepo_id = "{MODEL}"\nrevision = "other"\n'
    )
    filling.run("pull", "--prune")
    assert filling.shown().keys() == REST
    assert filling.shown("other") == {**FILES, "README.md": b"new"}


def test_filters_that_include_no_file_remove_nothing(filling: Filling, tmp_path: Path) -> None:
    filling.run("pull", MODEL)
    (tmp_path / "hubmirror.toml").write_text(
        f'[[repo]]\nrepo_id = "{MODEL}"\ninclude = ["*.typo"]\n'
    )
    filling.run("pull", "--prune", status=0)
    assert filling.shown() == FILES


def _pin(data: Path, commit: str, *files: str) -> None:
    """What `hubmirror openllm pull` leaves of a model."""
    platform = Platform("3.11", "2.28", "x86_64")
    model = PinnedModel(Cache.of(data / "hub").folders()[0].repo, commit, dict.fromkeys(files, 1))
    Closure("github.com/a/b", "tiny:1", "d" * 64, platform, (model,), ()).write(data)


def test_a_model_of_openllm_is_not_pruned(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    filling.run("pull", MODEL)
    simulator.repo("org/other").commit({"a": b"b"})
    (tmp_path / "hubmirror.toml").write_text('[[repo]]\nrepo_id = "org/other"\n')
    _pin(filling.data, simulator.repo(MODEL).refs["main"])
    assert "Removed" not in filling.run("pull", "--prune").output
    assert filling.shown() == FILES


def test_files_of_a_model_of_openllm_are_not_pruned(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    filling.run("pull", MODEL)
    (tmp_path / "hubmirror.toml").write_text(EXCLUDED)
    _pin(filling.data, simulator.repo(MODEL).refs["main"], WEIGHTS)
    filling.run("pull", "--prune")
    assert filling.shown().keys() == {*REST, WEIGHTS}


@pytest.mark.parametrize("pin", ["closure", "configuration"])
def test_gc_keeps_a_pinned_revision(
    simulator: HubSimulator, filling: Filling, tmp_path: Path, pin: str
) -> None:
    """`main` has moved on since the pull."""
    filling.run("pull", MODEL)
    commit = simulator.repo(MODEL).refs["main"]
    if pin == "closure":
        _pin(filling.data, commit)
    else:
        (tmp_path / "hubmirror.toml").write_text(
            f'[[repo]]\nrepo_id = "{MODEL}"\nrevision = "{commit}"\n'
        )
    simulator.repo(MODEL).commit({"a": b"b"})
    filling.run("pull", MODEL)
    filling.run("gc")
    assert filling.shown(commit) == FILES
    write(tmp_path / "hubmirror.toml", b"")
    for path in (filling.data / "openllm").glob("*.json"):
        path.unlink()
    filling.run("gc")
    assert commit not in filling.folder().recorded_commits()


def test_readers_see_a_whole_revision_while_files_are_pruned(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    filling.run("pull", MODEL)
    (tmp_path / "hubmirror.toml").write_text(EXCLUDED)
    seen: list[set[str]] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.append(set(filling.shown()))

    reader = threading.Thread(target=read)
    reader.start()
    filling.run("pull", "--prune")
    ended.set()
    reader.join(30)
    assert {frozenset(paths) for paths in seen} <= {frozenset(FILES), frozenset(REST)}
