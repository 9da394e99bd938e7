"""`hubmirror record` and `hubmirror rehearse`, around real clients."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mirror.core.repo import Repo
from tests.filling import FILES, MODEL, Filling
from tests.folders import COMMIT, Content, make_managed, make_plain, write
from tests.hub import HubSimulator
from tests.recording import carry, environment, hubmirror, recorded, skip_unless_closed
from tests.waiting import until
from tests.wheels import make_wheel

pytestmark = pytest.mark.timeout(300)  # each starts several processes
HF = str(Path(sys.executable).with_name("hf"))
DOWNLOAD = [HF, "download", "--quiet", "Org/Model"]
WEIGHTS = "model.safetensors"


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a data folder that holds the model."""
    make_managed(tmp_path / "data" / "hub")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "include"),
    [
        (["config.json", "README.md"], ["README.md", "config.json"]),
        ([], None),
    ],
)
def test_a_site_is_filled_and_proven_by_what_a_command_asked_for(
    site: Path, words: list[str], include: list[str] | None
) -> None:
    """Recorded here, pulled into an empty folder, rehearsed, and started with no network."""
    skip_unless_closed()
    said = carry(site, [*DOWNLOAD, *words])
    entry = {"repo_id": "Org/Model", "revision": "main", "commit_hash": COMMIT}
    assert recorded(site) == [entry | ({"include": include} if include else {})]
    count = len(include) if include else len(Content().files)
    assert f"1 revision, {count} file" in said


def test_the_recorded_commit_is_pulled_after_the_branch_has_moved(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    filling.run("pull", MODEL)
    hubmirror(tmp_path, "record", "--", HF, "download", "--quiet", MODEL)
    simulator.repo(MODEL).commit({"config.json": b"[]"})
    further = Filling(tmp_path / "further", filling.url)
    further.run("pull", "--config", str(tmp_path / "recorded.toml"))
    assert further.shown("main") == FILES
    further.run("pull", MODEL)
    output = hubmirror(tmp_path, "rehearse", "recorded.toml", "--data", "further", status=1)
    assert f"{MODEL}@main is the commit {simulator.repo(MODEL).refs['main']} here" in output


def test_files_that_arrive_by_xet_are_recorded(site: Path) -> None:
    words = ["record", "--xet-min-size", "1", "--", *DOWNLOAD, "--include", WEIGHTS]
    hubmirror(site, *words)
    assert recorded(site)[0]["include"] == [WEIGHTS]


def test_odd_names_and_several_revisions_are_recorded(site: Path) -> None:
    content = Content(
        {"a[1]*.csv": b"a\n", "\u00fc\U0001f600\x7f.txt": b"b"}, repo=Repo.parse("datasets/org/d")
    )
    make_managed(site / "data" / "hub", content, refs=("refs/heads/main", "refs/tags/v1"))
    ask = python(
        "from huggingface_hub import hf_hub_download\n"
        f"hf_hub_download('Org/Model', 'config.json', revision='{COMMIT}')\n"
        "for revision in ('main', 'v1'):\n"
        "    hf_hub_download('org/d', 'a[1]*.csv', repo_type='dataset', revision=revision)"
    )
    hubmirror(site, "record", "--", *ask)
    common = {
        "repo_id": "org/d",
        "repo_type": "dataset",
        "commit_hash": COMMIT,
        "include": ["a[[]1][*].csv"],
    }
    assert recorded(site) == [
        {**common, "revision": "main"},
        {**common, "revision": "v1"},
        {"repo_id": "Org/Model", "revision": COMMIT, "include": ["config.json"]},
    ]
    hubmirror(site, "rehearse", "recorded.toml")


def test_a_file_that_the_commit_does_not_have_is_not_missing(site: Path) -> None:
    ask = python(
        "from huggingface_hub import file_exists, hf_hub_download\n"
        "assert not file_exists('Org/Model', 'adapter_config.json')\n"
        "hf_hub_download('Org/Model', 'config.json')"
    )
    assert "Missing" not in hubmirror(site, "record", "--", *ask)
    assert recorded(site)[0]["include"] == ["config.json"]


def test_what_was_missing_is_recorded_and_the_exit_status_is_that_of_the_command(
    site: Path,
) -> None:
    files = {path: body for path, body in Content().files.items() if path != "config.json"}
    left_out = {"config.json": Content().entries["config.json"]}
    make_managed(site / "data" / "hub", Content(files), left_out=left_out)
    output = hubmirror(site, "record", "--", *DOWNLOAD, "config.json", status=1)
    assert "Missing: config.json of Org/Model@main: " in output
    assert recorded(site)[0]["include"] == ["config.json"]
    assert "# Missing: config.json of Org/Model@main: " in (site / "recorded.toml").read_text()
    output = hubmirror(site, "rehearse", "recorded.toml", status=1)
    assert output.startswith("config.json of Org/Model@main: ")
    hubmirror(site, "record", "--", HF, "download", "other/model", "a.txt", status=1)
    assert recorded(site) == [{"repo_id": "other/model", "revision": "main", "include": ["a.txt"]}]
    output = hubmirror(site, "rehearse", "recorded.toml", status=1)
    assert "other/model is not in this mirror" in output


def test_a_whole_repository_is_rehearsed_with_all_its_files(site: Path) -> None:
    hubmirror(site, "record", "--", *DOWNLOAD)
    left_out = {"config.json": Content().entries["config.json"]}
    files = {path: body for path, body in Content().files.items() if path != "config.json"}
    make_managed(site / "less" / "hub", Content(files), left_out=left_out)
    output = hubmirror(site, "rehearse", "recorded.toml", "--data", "less", status=1)
    assert "config.json of Org/Model@main: " in output
    assert output.endswith("1 problem.\n")


def test_a_blob_that_is_gone_fails_the_rehearsal(site: Path) -> None:
    hubmirror(site, "record", "--", *DOWNLOAD, "config.json")
    folder = site / "data" / "hub" / "models--Org--Model"
    (folder / "blobs" / Content().entries["config.json"].etag).unlink()
    assert "1 problem." in hubmirror(site, "rehearse", "recorded.toml", status=1)


def test_a_repository_that_was_only_asked_about_has_its_smallest_file(site: Path) -> None:
    ask = python("from huggingface_hub import model_info; model_info('Org/Model')")
    hubmirror(site, "record", "--", *ask)
    assert recorded(site)[0]["include"] == ["empty.txt"]
    assert "# No file was read." in (site / "recorded.toml").read_text()


def test_a_plain_folder_has_no_commit_of_upstream(tmp_path: Path) -> None:
    make_plain(tmp_path / "plain", Content({"config.json": b"{}"}))
    (tmp_path / "data").mkdir()
    source = ["--source", "folder:plain=Org/Model"]
    hubmirror(tmp_path, "record", *source, "--", *DOWNLOAD, "config.json")
    assert "commit_hash" not in recorded(tmp_path)[0]
    hubmirror(tmp_path, "rehearse", *source, "recorded.toml")


def test_requests_beside_the_hub_are_recorded(site: Path) -> None:
    make_wheel(site / "data" / "wheels", "thing", "1.0")
    ask = python(
        "import os, urllib.request as r\n"
        "base = os.environ['HF_ENDPOINT']\n"
        "r.urlopen(base + '/-/simple/thing/')\n"
        "r.urlopen(base + '/healthz')"
    )
    hubmirror(site, "record", "--", *ask)
    text = (site / "recorded.toml").read_text()
    assert tomllib.loads(text) == {"requests": ["/-/simple/thing/"]}
    assert "1 other request" in hubmirror(site, "rehearse", "recorded.toml")
    (site / "empty").mkdir()
    output = hubmirror(site, "rehearse", "recorded.toml", "--data", "empty", status=1)
    assert output.startswith("/-/simple/thing/: ")


def test_the_mirror_is_all_that_a_closed_command_can_reach(site: Path) -> None:
    skip_unless_closed()
    with closing(socket.create_server(("127.0.0.1", 0))) as outside:
        ask = python(
            "import socket, urllib.request as r, os\n"
            "assert r.urlopen(os.environ['HF_ENDPOINT'] + '/healthz').status == 200\n"
            f"for address in (('127.0.0.1', {outside.getsockname()[1]}), ('192.0.2.1', 80)):\n"
            "    try: socket.create_connection(address, 5)\n"
            "    except OSError: continue\n"
            "    raise SystemExit(f'{address} can be reached')"
        )
        hubmirror(site, "record", "--closed", "--", *ask)


def test_the_user_of_a_closed_command_is_the_same(site: Path) -> None:
    skip_unless_closed()
    ask = python(f"import os; assert (os.getuid(), os.getgid()) == {(os.getuid(), os.getgid())}")
    hubmirror(site, "record", "--closed", "--", *ask)


def test_a_network_is_closed_without_root_where_user_namespaces_are_allowed(site: Path) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) and root are needed to give up the rights of root")
    under = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    user_namespace = [*under, "unshare", "--user", "--map-root-user", "--net", "true"]
    if subprocess.run(user_namespace, capture_output=True, check=False).returncode:
        pytest.skip("this machine has no user namespaces for processes that are not root")
    assert subprocess.run([*under, "unshare", "--net", "true"], check=False).returncode
    record = [sys.executable, "-m", "mirror", "record", "--closed", "--", *DOWNLOAD, "config.json"]
    subprocess.run([*under, *record], cwd=site, env=environment(), check=True, timeout=100)
    assert recorded(site)[0]["include"] == ["config.json"]


@pytest.mark.parametrize("closed", [[], ["--closed"]])
def test_a_command_that_ends_by_a_signal_or_a_status(site: Path, closed: Sequence[str]) -> None:
    if closed:
        skip_unless_closed()
    hubmirror(site, "record", *closed, "--", "sh", "-c", "exit 7", status=7)
    hubmirror(site, "record", *closed, "--", "sh", "-c", "kill -9 $$", status=137)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_and_not_the_recording(
    site: Path, number: signal.Signals
) -> None:
    """As a terminal does: an interrupt goes to the whole group of processes."""
    ask = python(
        "import time, pathlib\n"
        "from huggingface_hub import hf_hub_download\n"
        "hf_hub_download('Org/Model', 'config.json')\n"
        "pathlib.Path('asked').touch()\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "mirror", "record", "--", *ask], cwd=site, env=environment(),
        start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until((site / "asked").exists)
        if number is signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(30) == 128 + number
    finally:
        process.kill()
        process.wait()
    assert recorded(site)[0]["include"] == ["config.json"]


def test_no_cache_and_no_setting_of_the_user_hides_what_is_needed(site: Path) -> None:
    environ = {"HF_HUB_CACHE": str(site / "data" / "hub"), "HF_HUB_OFFLINE": "1"}
    environ |= {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    hubmirror(site, "record", "--", *DOWNLOAD, "config.json", env=environ)
    assert recorded(site)[0]["include"] == ["config.json"]


def test_a_mirror_with_a_token_is_recorded_with_it(site: Path) -> None:
    (site / "token").write_text("hf_of_the_mirror")
    token = ["--token-file", "token"]
    hubmirror(site, "record", *token, "--", *DOWNLOAD, "config.json")
    hubmirror(site, "rehearse", *token, "recorded.toml")
    assert "hf_of_the_mirror" not in (site / "recorded.toml").read_text()


def test_only_a_recording_is_overwritten(site: Path) -> None:
    write(site / "hubmirror.toml", b"[serve]\n")
    output = hubmirror(site, "record", "-o", "hubmirror.toml", "--", "true", status=1)
    assert "was not written by `hubmirror record`" in output
    output = hubmirror(site, "record", "-o", "none/recorded.toml", "--", "true", status=1)
    assert "cannot be written" in output
    hubmirror(site, "record", "--", "true")
    hubmirror(site, "record", "--", "true")
    output = hubmirror(site, "rehearse", "recorded.toml", status=1)
    assert "declares no [[repo]]" in output


def test_a_program_that_is_not_there_is_named(site: Path) -> None:
    output = hubmirror(site, "record", "--", "no-such-program", status=1)
    assert "There is no program no-such-program" in output


def test_a_server_that_does_not_start_is_reported(site: Path) -> None:
    (site / "token").write_text("two tokens")
    output = hubmirror(site, "record", "--token-file", "token", "--", "true", status=1)
    assert "one token" in output
