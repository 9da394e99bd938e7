"""The `hubmirror pull` command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mirror.cli import main
from mirror.core.repo import Repo
from mirror.store.cache import Cache
from mirror.sync.pull import Outcome, Pull
from tests.conftest import Serve
from tests.filling import FILES, MODEL, Filling
from tests.folders import write
from tests.hub import EVER, HubSimulator, refused, slow, stalled
from tests.odd_disks import OWN_DISK, needs_own_disk
from tests.servers import run_command
from tests.waiting import until

DECLARED = """
[[repo]]
repo_id = "org/model"
exclude = ["*.safetensors"]

[[repo]]
repo_id = "org/data"
repo_type = "dataset"
revision = "v1"
"""
DATA = "datasets/org/data"


@pytest.fixture
def declared(simulator: HubSimulator, tmp_path: Path) -> Path:
    """A configuration that declares two repositories of the hub."""
    simulator.repo(DATA).commit({"train.csv": b"a,b\n"}, "refs/tags/v1")
    (tmp_path / "hubmirror.toml").write_text(DECLARED)
    return tmp_path / "hubmirror.toml"


def test_declared_repositories_are_pulled(declared: Path, filling: Filling) -> None:
    output = filling.run("pull").output
    assert "org/model at " in output
    assert "datasets/org/data at " in output
    assert filling.shown().keys() == {path for path in FILES if "safetensors" not in path}
    assert filling.shown("v1", DATA) == {"train.csv": b"a,b\n"}


def test_only_the_named_repository_is_pulled(declared: Path, filling: Filling) -> None:
    filling.run("pull", MODEL)
    assert filling.shown().keys() == {path for path in FILES if "safetensors" not in path}
    assert [path.name for path in filling.hub.glob("*--*")] == ["models--org--model"]


def test_nothing_to_pull_names_the_next_step(filling: Filling) -> None:
    output = filling.run("pull", status=1).output
    assert "hubmirror pull ORG/NAME" in output
    assert "[[repo]]" in output


def test_a_dry_run_shows_files_and_bytes(simulator: HubSimulator, filling: Filling) -> None:
    filling.run("pull", MODEL, "--include", "*.json")
    requests = simulator.count("/resolve/")
    output = filling.run("pull", MODEL, "--exclude", "*.txt", "--dry-run").stdout
    rows = [" ".join(line.split()) for line in output.splitlines()]
    assert rows[0] == f"{MODEL} at {simulator.repo(MODEL).refs['main']}"
    assert set(rows[1:-1]) == {
        "It was served with fewer files. Clients that have its list do not see new files.",
        "+ 8 B README.md",
        "23 B config.json",
        "+ 300.0 kB model-00001.safetensors",
        "+ 300.0 kB model-00002.safetensors",
    }
    assert rows[-1] == "To fetch: 3 files, 600.0 kB."
    assert filling.shown().keys() == {"config.json"}
    assert simulator.count("/resolve/") == requests


def test_a_dry_run_as_json(simulator: HubSimulator, filling: Filling) -> None:
    (row,) = filling.lines("pull", MODEL, "--include", "*.json", "--dry-run")
    assert row == {
        "repo": MODEL,
        "commit_hash": simulator.repo(MODEL).refs["main"],
        "files": [{"path": "config.json", "size": 23, "missing": True}],
    }
    assert not (filling.hub / ".hubmirror" / "last-pull.json").exists()


def test_a_dry_run_of_an_unknown_repository(filling: Filling) -> None:
    output = filling.run("pull", "org/nope", MODEL, "--dry-run", status=1).output
    assert "org/nope is not on" in output
    assert "To fetch: 7 files" in output


def test_events_are_lines_of_json(simulator: HubSimulator, filling: Filling) -> None:
    events = filling.lines("pull", MODEL, "org/nope", status=1)
    kinds = Counter(event["event"] for event in events)
    assert kinds == {
        "Message": 1,
        "Planned": 1,
        "FileBegan": len(FILES),
        "FileDone": len(FILES),
        "RevisionDone": 1,
    }
    assert events[0]["level"] == "error"
    assert events[1] == {
        "event": "Planned",
        "files": len(FILES),
        "size": sum(map(len, FILES.values())),
    }
    done = {event["path"] for event in events if event["event"] == "FileDone"}
    assert done == FILES.keys()
    assert events[-1] == {
        "event": "RevisionDone",
        "repo": MODEL,
        "commit_hash": simulator.repo(MODEL).refs["main"],
        "outcome": "pulled",
        "files": len(FILES),
        "size": sum(map(len, FILES.values())),
    }


def test_last_pull_json(filling: Filling) -> None:
    filling.run("pull", MODEL)
    last = filling.last_pull()
    assert (last["ok"], last["revisions"], last["errors"]) == (True, 1, [])
    began, ended = (datetime.fromisoformat(last[key]) for key in ("started_at", "finished_at"))
    assert began <= ended
    filling.run("pull", MODEL, "org/nope", status=1)
    last = filling.last_pull()
    assert (last["ok"], last["revisions"]) == (False, 1)
    assert "org/nope is not on" in last["errors"][0]


def _claim_petabytes(simulator: HubSimulator) -> None:
    simulator.repo(MODEL).claimed_sizes["model-00001.safetensors"] = 3 * 10**15


def test_a_disk_that_is_too_small(simulator: HubSimulator, filling: Filling) -> None:
    _claim_petabytes(simulator)
    output = " ".join(filling.run("pull", MODEL, status=1).output.split())
    assert "The disk is too small: the pull needs 3000.0 TB" in output
    assert "Free another " in output
    assert simulator.count("/resolve/") == 0
    assert filling.run("pull", MODEL, "--exclude", "*00001*").exit_code == 0


def test_a_disk_that_is_too_small_is_a_failed_run(
    simulator: HubSimulator, filling: Filling
) -> None:
    filling.run("pull", MODEL)
    simulator.repo(MODEL).commit({**FILES, "model-00001.safetensors": b"new"})
    _claim_petabytes(simulator)
    filling.run("pull", MODEL, status=1)
    assert not filling.last_pull()["ok"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["org/nope"], "org/nope is not on {url}, or it is private. Check the spelling"),
        ([f"{MODEL}@nope"], "org/model has no revision nope on {url}."),
        ([MODEL, "--include", "*.nope"], "org/model has no file that matches the filters."),
        (["https://x/org/model"], "is not a repo id. Write ORG/NAME"),
    ],
)
def test_failed_pulls_are_reported(filling: Filling, words: list[str], message: str) -> None:
    output = " ".join(filling.run("pull", *words, status=1).output.split())
    assert message.format(url=filling.url) in output


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_is_reported(
    simulator: HubSimulator, filling: Filling, status: int
) -> None:
    simulator.fail("org/model", refused(status, x_error_code="GatedRepo"), EVER)
    simulator.repo("org/free").commit({"a": b"b"})
    output = filling.run("pull", MODEL, "org/free", status=1).output
    assert f"org/model is gated. Ask for access at {filling.url}/org/model, log in" in output
    assert filling.shown(repo="org/free") == {"a": b"b"}


def test_gated_files_are_reported(simulator: HubSimulator, filling: Filling) -> None:
    simulator.fail("/resolve/", refused(403, x_error_code="GatedRepo"), EVER)
    assert "org/model is gated" in filling.run("pull", MODEL, status=1).output
    assert simulator.count("HEAD") <= len(FILES)


def test_a_wrong_token_is_reported(simulator: HubSimulator, filling: Filling) -> None:
    wrong = refused(401, x_error_message="Invalid credentials in Authorization header")
    simulator.fail("/api/", wrong, EVER)
    assert "HF_TOKEN" in filling.run("pull", MODEL, status=1).output


def test_a_mirror_does_not_pull_from_itself(serve: Serve, filling: Filling) -> None:
    filling.run("pull", MODEL)
    with filling.source() as source:
        itself = Filling(filling.data, str(serve(source).base_url))
        output = " ".join(itself.run("pull", MODEL, status=1).output.split())
        assert f"{itself.url.rstrip('/')} is this mirror itself" in output
        other = Filling(filling.data.with_name("other"), itself.url)
        other.run("pull", MODEL)
    assert other.shown() == FILES


def test_an_unreachable_hub_is_retried(tmp_path: Path) -> None:
    words = ["pull", MODEL, "--upstream", "http://127.0.0.1:9"]
    with subprocess.Popen(
        [sys.executable, "-m", "mirror", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
    cause = "127.0.0.1:9 cannot be reached: [Errno 111] Connection refused"
    assert line == f"warning: org/model: {cause}. Retry in 1 s.\n"


CODE = b'{"auto_map": {"AutoModel": "org/code--modeling.Model"}}'


def test_needed_repositories_are_reported(simulator: HubSimulator, filling: Filling) -> None:
    simulator.repo(MODEL).commit({"config.json": CODE})
    output = filling.run("pull", MODEL).output
    assert (
        "A pulled repository also needs org/code (its code) to start. Pull it with --with-needs."
        in output
    )


def test_needed_repositories_are_pulled_with_needs(
    simulator: HubSimulator, filling: Filling
) -> None:
    simulator.repo(MODEL).commit({"config.json": CODE})
    simulator.repo("org/code").commit({"modeling.py": b"pass"})
    output = filling.run("pull", MODEL, "--with-needs").output
    assert "A pulled repository also needs org/code (its code) to start.\n" in output
    assert filling.shown(repo="org/code") == {"modeling.py": b"pass"}
    assert filling.last_pull()["revisions"] == 2
    simulator.repo("org/code").commit({"modeling.py": b"moved"})
    assert "also needs" not in filling.run("pull", MODEL, "--with-needs").output
    assert filling.shown(repo="org/code") == {"modeling.py": b"moved"}


def test_a_needed_repository_that_upstream_does_not_have(
    simulator: HubSimulator, filling: Filling
) -> None:
    simulator.repo(MODEL).commit({"config.json": CODE})
    assert "org/code is not on" in filling.run("pull", MODEL, "--with-needs", status=1).output
    assert filling.shown() == {"config.json": CODE}


def test_needs_of_needs_are_pulled(simulator: HubSimulator, filling: Filling) -> None:
    simulator.repo("org/adapter").commit(
        {"adapter_config.json": b'{"base_model_name_or_path": "org/model"}'}
    )
    simulator.repo(MODEL).commit({"config.json": CODE})
    simulator.repo("org/code").commit({"modeling.py": b"pass"})
    filling.run("pull", "org/adapter", "--with-needs")
    assert filling.shown(repo="org/code") == {"modeling.py": b"pass"}


def test_needed_repositories_are_not_pruned(
    declared: Path, simulator: HubSimulator, filling: Filling
) -> None:
    simulator.repo(MODEL).commit({"config.json": CODE})
    simulator.repo("org/code").commit({"modeling.py": b"pass"})
    assert "Not declared" not in filling.run("pull", "--with-needs").output
    filling.run("pull", "--prune")
    assert filling.shown(repo="org/code") == {"modeling.py": b"pass"}


def test_a_mirror_with_a_token_requires_it(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling.run("pull", MODEL)
    (tmp_path / "token").write_text("hf_secret")
    with run_command(
        tmp_path, "--data", "data", "--workers", "1", "--token-file", "token"
    ) as server:
        further = Filling(tmp_path / "further", server.url)
        assert "log in with" in further.run("pull", MODEL, status=1).output
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        further.run("pull", MODEL)
    assert further.shown() == FILES


@needs_own_disk
def test_a_full_disk_is_reported(simulator: HubSimulator, filling: Filling, tmp_path: Path) -> None:
    simulator.repo(MODEL).commit({"large.bin": bytes(72_000_000)})
    simulator.fail("GET .*/large.bin", stalled(4))
    filling.data.mkdir(exist_ok=True)
    pull = f"{sys.executable} -m mirror pull {MODEL} --data data --upstream {filling.url}"
    began = "ls data/hub/.hubmirror/staging/*/*.incomplete"
    other = f"for _ in $(seq 200); do {began} && break; sleep 0.1; done; cat /dev/zero > data/other"
    result = subprocess.run(
        [*OWN_DISK, f"mount -t tmpfs -o size=200m tmpfs data && {{ ({other}) & {pull}; }}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "org/model cannot be written: No space left on device." in result.stderr
    assert "Traceback" not in result.stderr
    assert simulator.count("GET .*/resolve/") == 1


def test_filters_require_repository_names(filling: Filling, tmp_path: Path) -> None:
    (tmp_path / "hubmirror.toml").write_text(f'[[repo]]\nrepo_id = "{MODEL}"\n')
    output = filling.run("pull", "--exclude", "*.bin", status=1).output
    assert "--include and --exclude apply only to repositories on the command line" in output


def test_the_upstream_may_be_a_setting(
    simulator: HubSimulator, filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> None:
        result = CliRunner().invoke(main, ["pull", MODEL, "--data", str(filling.data), *words])
        assert result.exit_code == 0, result.output

    monkeypatch.setenv("HUBMIRROR_UPSTREAM", filling.url)
    run()
    monkeypatch.delenv("HUBMIRROR_UPSTREAM")
    (tmp_path / "hubmirror.toml").write_text(f'[pull]\nupstream = "{filling.url}"\n')
    run()
    assert simulator.count("revision/main") == 2


def test_a_renamed_repository_keeps_its_requested_name(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    """A renamed repository must not be written to the folder of its new name."""
    simulator.repo("org/old").commit(FILES)
    simulator.repo("org/old").info = {"id": "org/new"}
    simulator.repo("org/new").commit(FILES)
    (tmp_path / "hubmirror.toml").write_text('[[repo]]\nrepo_id = "org/old"\n')
    output = filling.run("pull", "--prune").output
    assert "org/old is named org/new upstream. The mirror serves it only as org/old." in output
    assert "Not declared" not in output
    assert filling.shown(repo="org/old") == FILES
    assert not (filling.hub / "models--org--new").exists()


def test_a_running_pull_is_not_ok(filling: Filling, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def run(self: Pull, plans: object) -> Outcome:
        seen.append(filling.last_pull())
        raise RuntimeError("unexpected")

    monkeypatch.setattr(Pull, "run", run)
    result = CliRunner().invoke(
        main, ["pull", MODEL, "--data", str(filling.data), "--upstream", filling.url]
    )
    assert isinstance(result.exception, RuntimeError)
    assert (seen[0]["ok"], seen[0]["finished_at"]) == (False, None)
    last = filling.last_pull()
    assert last["finished_at"] >= last["started_at"]
    assert (last["ok"], last["errors"]) == (False, ["The pull failed: RuntimeError('unexpected')"])


def test_a_pull_from_itself_is_not_ok(serve: Serve, filling: Filling) -> None:
    filling.run("pull", MODEL)
    assert filling.last_pull()["ok"]
    with filling.source() as source:
        itself = Filling(filling.data, str(serve(source).base_url))
        itself.run("pull", MODEL, status=1)
    assert "is this mirror itself" in filling.last_pull()["errors"][0]


def test_ctrl_c_ends_a_pull_at_once(simulator: HubSimulator, filling: Filling) -> None:
    body = bytes(range(256)) * 4096
    files = {f"{number}.bin": body + bytes([number]) for number in range(40)}
    simulator.repo("org/slow").commit(files)
    simulator.fail("GET .*resolve", slow(20), EVER)
    command = [sys.executable, "-m", "mirror", "pull", "org/slow", "--data", str(filling.data)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [*command, "--upstream", filling.url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment,
    ) as process:  # fmt: skip
        until(lambda: simulator.count("GET .*resolve") > 2)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        output = process.communicate(timeout=20)[0].decode()
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert "Interrupted. Finished files are kept, and files in progress start again" in output
    assert "Traceback" not in output
    last = filling.last_pull()
    assert (last["ok"], last["errors"]) == (False, ["The pull was interrupted."])
    simulator.faults.clear()
    filling.run("pull", "org/slow")
    assert filling.shown(repo="org/slow") == files


def test_partial_files_are_removed_before_the_space_check(
    simulator: HubSimulator, filling: Filling
) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    half = Cache.of(filling.hub).staging(Repo.parse(MODEL)) / "x" / "y.incomplete"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    run, plans = filling.plan(f"{MODEL}@{commit}")
    assert run.lack_of_space(plans) == ""
    assert not half.exists()


def test_the_space_check_counts_each_blob_once(simulator: HubSimulator, filling: Filling) -> None:
    simulator.repo("org/fork").commit(FILES)
    run, plans = filling.plan(MODEL, "org/fork")
    total = sum(len(body) for body in {*FILES.values()})
    assert sum(run.to_fetch(plans).values()) == total
    filling.run("pull", MODEL)
    run, plans = filling.plan("org/fork")
    assert len(plans[0].missing) == len(FILES)
    assert run.to_fetch(plans) == {}
    assert "To fetch: 0 files" in filling.run("pull", "org/fork", "--dry-run").stdout


@pytest.mark.parametrize("verb", [["gc"], ["rm", MODEL], ["pull", MODEL], ["verify"]])
def test_a_file_as_data_folder_gives_a_one_line_error(
    filling: Filling, tmp_path: Path, verb: list[str]
) -> None:
    write(tmp_path / "file", b"x")
    result = CliRunner().invoke(main, [*verb, "--data", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.output.count("\n") == 1
