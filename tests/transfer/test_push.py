"""`hubmirror push`: the order of files, errors, and kills."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.core.repo import Repo
from mirror.transfer.push import push
from tests.carried import (
    KILLS,
    TWIN,
    Killer,
    blob,
    digests_of,
    flip,
    hubmirror,
    names_below,
    needs_rsync,
    offline_files,
    put,
    put_grown,
    reading,
    roomy_folder,
    start,
)
from tests.filling import DAY, Later
from tests.folders import COMMIT, MODEL, Content, repo_dir, write
from tests.odd_disks import needs_own_disk, on_own_disk, refusing
from tests.servers import run_command
from tests.ssh import needs_sshd, run_sshd
from tests.waiting import until

pytestmark = needs_rsync

_KINDS = ("blobs", "snapshots", "trees", "hubmirror", "refs")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two repositories with the same shards."""
    for repo in (MODEL, TWIN):
        put_grown(tmp_path / "data", 0, repo)
    return tmp_path / "data"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The data folder of the second host."""
    return tmp_path / "site"


def _names(data: Path, site: Path, *words: str) -> list[str]:
    """The actions of rsync in order: names of written files, and `-NAME` for deleted files."""
    output = hubmirror(data, "push", *words, str(site), "--", "--itemize-changes").output
    rows = re.findall(r"^(\*deleting|[>ch][fLd]\S+) +(hub/.+?)(?: -> .+| => .+)?$", output, re.M)
    return [f"-{name}" if kind == "*deleting" else name for kind, name in rows if name[-1] != "/"]


def _kinds(names: list[str]) -> list[str]:
    """The kinds of names, in order."""
    return list(dict.fromkeys(name.split("/")[2] for name in names if name.count("/") > 2))


def test_a_push_copies_the_whole_folder(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    assert names_below(site) == names_below(data)
    assert "No problems found." in hubmirror(site, "verify").stdout
    assert offline_files(site / "hub", MODEL) == digests_of(put_grown(data, 0))


def test_files_come_first_and_refs_last(data: Path, site: Path) -> None:
    kinds = _kinds(_names(data, site))
    assert kinds in [[*_KINDS], ["blobs", "trees", "snapshots", *_KINDS[3:]]]


def test_unfinished_work_is_not_pushed(data: Path, site: Path) -> None:
    for name in (".hubmirror/digests/a", "hub/.hubmirror/staging/half", "hub/.locks/a"):
        write(data / name, b"here")
    write(site / "hub" / ".hubmirror" / "id", b"there")
    write(site / ".hubmirror" / "fact", b"there")
    hubmirror(data, "push", "--delete", str(site))
    assert (site / "hub" / ".hubmirror" / "id").read_text() == "there"
    assert (site / ".hubmirror" / "fact").read_text() == "there"
    assert not (site / ".hubmirror" / "digests").exists()
    assert not (site / "hub" / ".locks").exists()
    assert [path.name for path in (site / "hub" / ".hubmirror").iterdir()] == ["id"]


def test_hard_links_are_kept(data: Path, site: Path) -> None:
    first, twin = put_grown(data, 1), put_grown(data, 1, TWIN)
    path = "model-1.safetensors"
    blob(data / "hub", twin, path).unlink()
    blob(data / "hub", twin, path).hardlink_to(blob(data / "hub", first, path))
    hubmirror(data, "push", str(site))
    assert blob(site / "hub", twin, path).samefile(blob(site / "hub", first, path))


def test_a_new_revision_transfers_only_changed_files(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    assert _names(data, site) == []
    put_grown(data, 1)
    names = _names(data, site)
    assert len([name for name in names if "/blobs/" in name]) == 3  # two shards, and README.md
    assert _kinds(names)[-1] == "refs"


def test_a_ref_that_moves_within_a_second_is_copied(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    ref = repo_dir(data / "hub") / "refs" / "main"
    before = ref.stat()
    ref.write_text("f" * 40)
    os.utime(ref, ns=(before.st_atime_ns, before.st_mtime_ns))
    hubmirror(data, "push", str(site))
    assert (repo_dir(site / "hub") / "refs" / "main").read_text() == "f" * 40


def test_a_symlinked_folder_is_pushed(data: Path, site: Path) -> None:
    (data / "hub").rename(data.parent / "disk")
    (data / "hub").symlink_to("../disk")
    hubmirror(data, "push", str(site))
    assert not (site / "hub").is_symlink()
    assert "No problems found." in hubmirror(site, "verify").stdout


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["--bwlimit=50m", "{site}"], 2, "No such option"),
        (["--", "-n"], 1, "is not a destination"),
        (["{site}", "Org/Other"], 1, "Org/Other is not in the data folder"),
        (["{site}", "a b"], 1, "'a b' is not a repo id"),
        ([""], 1, "is neither HOST:/PATH nor a path"),
        (["mirror.site"], 1, "write mirror.site:/PATH"),
        (["mirror.site:"], 1, "rsync would use the home folder"),
        ([":/srv"], 1, "has no host"),
        (["mirror.site::"], 1, "has no path"),
        (["rsync://mirror.site/"], 1, "has no path"),
        (["{data}/sub"], 1, "is inside the data folder"),
    ],
)
def test_wrong_arguments_are_refused(
    data: Path, site: Path, words: list[str], status: int, expected: str
) -> None:
    (site / ".hubmirror").mkdir(parents=True)
    before = names_below(data.parent)
    output = [word.format(data=data, site=site) for word in words]
    assert expected in hubmirror(data, "push", *output, status=status).output
    assert names_below(data.parent) == before


def test_an_empty_data_folder_is_not_pushed_with_delete(
    data: Path, site: Path, tmp_path: Path
) -> None:
    hubmirror(data, "push", str(site))
    before = names_below(site)
    (tmp_path / "unmounted" / "hub").mkdir(parents=True)
    output = hubmirror(tmp_path / "unmounted", "push", "--delete", str(site), status=1).output
    assert "Check that the disk of the data folder is mounted." in output
    assert names_below(site) == before


@pytest.mark.parametrize(("number", "code"), [(3, 24), (5, 24), (5, 23), (6, 23)])
def test_the_exit_status_of_rsync_in_each_pass(
    data: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """Vanished files are temporary files of a pull. Readers see no change before the refs."""
    rsync = tmp_path / "bin" / "rsync"
    write(
        rsync,
        f"""#!/bin/sh
n=$(cat {tmp_path}/n 2>/dev/null || echo 0); echo $((n + 1)) > {tmp_path}/n
{shutil.which("rsync")} "$@"; [ $n = {number} ] && exit {code}; exit 0
""".encode(),
    )
    rsync.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    output = hubmirror(data, "push", str(site), status=0 if code == 24 else 1).output
    assert ("vanished" in output) is (code == 24)
    assert ("The destination serves the same as before." in output) is (code == 23 and number < 6)
    assert (names_below(site) == names_below(data)) is (code == 24 or number == 6)


def test_files_are_deleted_only_with_delete(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    before = names_below(site)
    hubmirror(data, "rm", "Org/Twin")
    hubmirror(data, "push", str(site))
    assert names_below(site) == before


def test_deletions_are_last_and_start_with_pointers(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    hubmirror(data, "rm", "Org/Twin")
    put_grown(data, 1)
    hubmirror(data, "gc")
    names = _names(data, site, "--delete")
    removed = [name for name in names if name.startswith("-")]
    assert removed == names[-len(removed) :]
    assert set(_kinds(removed)[:2]) == {"hubmirror", "refs"}
    assert names_below(site) == names_below(data)
    assert "No problems found." in hubmirror(site, "verify").stdout


def test_a_partial_file_is_resumed(data: Path, site: Path) -> None:
    """No reader sees the partial file: it is in the partial folder of rsync."""
    big = Content({"big.bin": os.urandom(4_000_000)}, "b" * 40)
    put(data / "hub", big)
    there = blob(site / "hub", big, "big.bin")
    process = start(data, "push", str(site), "--", "--bwlimit=2m")
    until(lambda: any(path.stat().st_size > 1_500_000 for path in there.parent.glob(".*.*")))
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    half = there.parent / ".rsync-partial" / there.name
    until(half.exists)
    assert not there.exists()
    assert half.stat().st_size > 1_000_000
    hubmirror(data, "push", str(site))
    assert not half.parent.exists()
    assert names_below(site) == names_below(data)


def test_a_blob_that_was_set_aside_is_pushed_again(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    flip(blob(site / "hub", put_grown(data, 0), "model-1.safetensors"))
    hubmirror(site, "verify", status=1)
    hubmirror(data, "push", str(site))
    hubmirror(site, "verify")


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("nowhere/at/all", "and neither does the folder above it (nowhere/at)"),
        ("localhost.invalid:/srv", "Could not resolve hostname localhost.invalid"),
    ],
)
def test_a_failure_names_its_cause(data: Path, destination: str, expected: str) -> None:
    before = names_below(data.parent)
    output = hubmirror(data, "push", destination, status=1).output
    assert expected in output
    assert names_below(data.parent) == before


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of something else, as huggingface_hub's own: it has a hub/ too."""
    write(tmp_path / "theirs" / "hub" / "models--org--a" / "refs" / "main", COMMIT.encode())
    write(tmp_path / "theirs" / "letters.txt", b"dear")
    return tmp_path / "theirs"


@pytest.mark.parametrize("words", [[], ["--delete"], ["--dry-run", "--delete"]])
def test_a_folder_of_something_else_is_refused(data: Path, theirs: Path, words: list[str]) -> None:
    before = names_below(theirs)
    output = hubmirror(data, "push", *words, str(theirs), status=1).output
    assert "has files (hub, letters.txt), and is not a data folder of hubmirror" in output
    assert names_below(theirs) == before
    (command,) = re.findall(r"mark it: (.+)", output)
    subprocess.run(shlex.split(command), check=True)
    hubmirror(data, "push", *words, str(theirs))


@needs_sshd
def test_a_folder_of_something_else_on_another_host_is_refused(
    data: Path, theirs: Path, site: Path, tmp_path: Path
) -> None:
    before = names_below(theirs)
    with run_sshd(tmp_path / "sshd") as host:
        words = ["push", "--delete", f"{host.name}:{theirs}", "--", *host.options]
        output = hubmirror(data, *words, status=1).output
        assert f"mark it: ssh 127.0.0.1 mkdir {theirs}/.hubmirror" in output
        assert names_below(theirs) == before
        words = ["push", f"{host.name}:{site}/a/b", "--", *host.options]
        assert (
            f"create it: ssh 127.0.0.1 mkdir -p {site}/a/b"
            in hubmirror(data, *words, status=1).output
        )
        for _ in range(2):
            hubmirror(data, "push", "--delete", f"{host.name}:{site}", "--", *host.options)
    assert names_below(site) == names_below(data)
    assert "No problems found." in hubmirror(site, "verify").stdout


@pytest.mark.parametrize("name", ["lost+found", ".hubmirror"])
def test_a_fresh_disk_is_empty(data: Path, site: Path, name: str) -> None:
    (site / name).mkdir(parents=True)
    hubmirror(data, "push", "--delete", str(site))
    assert (site / name).is_dir()


def test_a_dry_run_lists_and_changes_nothing(data: Path, site: Path) -> None:
    output = hubmirror(data, "push", "--dry-run", str(site)).output
    assert "copy" in output
    assert "Would copy to " in output
    assert not site.exists()
    hubmirror(data, "push", str(site))
    hubmirror(data, "rm", "Org/Twin")
    content, before = put_grown(data, 1), names_below(site)
    rows = _json(data, "push", "--dry-run", "--delete", str(site))
    copied = {row["path"] for row in rows if row.get("action") == "copy"}
    assert f"hub/{MODEL.folder_name}/hubmirror/{content.commit_hash}.json" in copied
    deleted = {row["path"] for row in rows if row.get("action") == "delete"}
    assert f"hub/{TWIN.folder_name}/refs/main" in deleted
    assert not [name for name in deleted if TWIN.folder_name not in name]
    assert rows[-1]["is_dry_run"]
    assert rows[-1]["deleted"] == len(deleted)
    assert names_below(site) == before


def test_the_result_is_one_line(data: Path, site: Path) -> None:
    output = hubmirror(data, "push", str(site)).output
    assert re.search(rf"^Copied to {site}: \d+ files, \d.+B\.$", output, re.M)
    assert "0%" not in output
    assert "total size is" not in output
    assert hubmirror(data, "push", str(site)).output.endswith(f"{site} is up to date.\n")
    put_grown(data, 1)
    (planned, *_, done) = [
        row for row in _json(data, "push", str(site)) if row["event"] != "Message"
    ]
    assert (planned["event"], done["event"]) == ("Planned", "CopyDone")
    assert (planned["files"], planned["size"]) == (done["files"], done["size"])


def test_progress_is_printed_off_a_terminal(data: Path, site: Path) -> None:
    put(data / "hub", Content({"big.bin": os.urandom(30_000_000)}, "b" * 40))
    process = start(
        data, "push", str(site), "--", "--bwlimit=2m",
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    output = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0
    assert re.search(r"^\d+\.\d MB of 3\d\.\d MB, ", output, re.M)


def _json(data: Path, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in hubmirror(data, *words, "--json").stdout.splitlines()]


def test_only_chosen_repositories_are_pushed(data: Path, site: Path) -> None:
    write(data / "wheels" / "a.whl", b"x")
    write(data / "git" / "github.com" / "a" / "b.git" / "HEAD", b"x")
    hubmirror(data, "push", str(site), str(TWIN), "--", "--bwlimit=50m")
    assert [path.name for path in site.iterdir()] == ["hub"]
    assert sorted(path.name for path in (site / "hub").iterdir()) == [
        ".hubmirror",
        TWIN.folder_name,
    ]
    assert offline_files(site / "hub", TWIN) == digests_of(put_grown(data, 0, TWIN))
    hubmirror(data, "push", str(site))
    hubmirror(data, "rm", str(MODEL))
    put_grown(data, 1, TWIN)
    hubmirror(data, "gc")
    hubmirror(data, "push", "--delete", str(site), str(TWIN))
    assert repo_dir(site / "hub").exists()
    assert (site / "wheels" / "a.whl").exists()
    assert len(list((repo_dir(site / "hub", TWIN) / "hubmirror").iterdir())) == 1


def test_a_needed_repository_that_is_not_chosen_is_reported(data: Path, site: Path) -> None:
    adapter = Repo.parse("Org/Adapter")
    config = b'{"base_model_name_or_path": "Org/Model"}'
    put(data / "hub", Content({"adapter_config.json": config}, "a" * 40, adapter))
    output = hubmirror(data, "push", str(site), str(adapter)).output
    assert "needs Org/Model to start. Name this repository too." in output
    output = hubmirror(data, "push", str(site), str(adapter), str(MODEL)).output
    assert "to start" not in output


@needs_own_disk
def test_a_full_disk_at_the_destination_is_reported(data: Path, tmp_path: Path) -> None:
    put(data / "hub", Content({"big.bin": os.urandom(4_000_000)}, "b" * 40))
    (tmp_path / "site").mkdir()
    said = on_own_disk("mount -t tmpfs -o size=2m tmpfs site", tmp_path, "push", "./site")
    assert "No space left on device" in said
    assert "Free space on the disk of ./site." in said
    assert "rsync error" not in said


def test_a_destination_without_symlinks_is_refused_at_the_start(
    data: Path, site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(refusing(tmp_path, "symlink")))
    output = hubmirror(data, "push", str(site), status=1).output
    assert "rsync needs a file system with symlinks and modes" in output
    assert not list(site.rglob("blobs"))


def test_a_missing_rsync_is_reported(
    data: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(data))
    assert "apt-get install rsync" in hubmirror(data, "push", str(site), status=1).output


def test_an_absent_data_folder_is_reported(tmp_path: Path, site: Path) -> None:
    output = hubmirror(tmp_path / "typo", "push", str(site), status=1).output
    assert "typo does not exist" in output
    assert not site.exists()


def test_a_folder_with_a_colon_is_a_folder(tmp_path: Path, site: Path) -> None:
    put_grown(tmp_path / "a:b", 0)
    with contextlib.chdir(tmp_path):
        push(Path("a:b"), str(site), report=lambda _: None)
    hubmirror(site, "verify")


def test_two_pushes_at_the_same_time(data: Path, site: Path) -> None:
    """The first push was killed, and its rsync ends a little later."""
    put(data / "hub", Content({"big.bin": os.urandom(3_000_000)}, "b" * 40))
    first = start(data, "push", str(site), "--", "--bwlimit=2m")
    until(lambda: (repo_dir(site / "hub") / "blobs").is_dir())
    first.kill()
    hubmirror(data, "push", str(site))
    hubmirror(site, "verify")
    assert first.stdout is not None
    first.wait(30)
    first.stdout.close()
    hubmirror(site, "verify")
    left = {name: what for name, what in names_below(site).items() if "/blobs/." not in name}
    assert left == names_below(data)


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    with roomy_folder(tmp_path) as folder:
        yield folder


def _last_pass(lines: list[str]) -> str:
    names = [event["text"] for event in map(json.loads, lines) if event["event"] == "Message"]
    return names[-1].removeprefix("rsync: ") if names else "the plan"


@pytest.mark.timeout(120 + 20 * KILLS)
def test_killed_at_random_points(
    roomy: Path, later: Later, record_property: Callable[[str, object], None]
) -> None:
    """Each push has a new revision of both repositories. After a kill the old revisions are served;
    after the next run the new ones. Clients read all the time."""
    data, site = roomy / "data", roomy / "site"
    known, killer = {}, Killer("push", where=_last_pass)
    for repo in (MODEL, TWIN):
        content = put_grown(data, 0, repo)
        known[content.commit_hash] = digests_of(content)
    hubmirror(data, "push", str(site))
    number = 0
    with (
        run_command(roomy, "--data", str(site), "--workers", "1") as server,
        reading(server.url, known, MODEL, TWIN) as reader,
    ):
        while killer.hits < KILLS:
            number += 1
            for repo in (MODEL, TWIN):
                content = put_grown(data, number, repo)
                known[content.commit_hash] = digests_of(content)
            killer.kill(data, "push", "--json", str(site))
            hubmirror(site, "verify")
            hubmirror(data, "push", str(site))
            hubmirror(site, "verify")
        reader.wait_for(content.commit_hash, TWIN)
    later(2 * DAY)
    hubmirror(site, "gc")
    left = names_below(site)
    assert not [name for name in left if "/blobs/." in name]
    record_property("kills", dict(killer.found))
    record_property("pushes", number)
    record_property("read", sum(seen.revisions for seen in reader.readings.values()))
