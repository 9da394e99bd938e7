"""`hubmirror push`: rsync in the order that readers need, killed and begun again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.transfer.rsync import push
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
    until,
)
from tests.filling import DAY, Later
from tests.folders import MODEL, Content, repo_dir, write
from tests.servers import run_command

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
    """The data folder at the other side."""
    return tmp_path / "site"


def _names(data: Path, site: Path, *words: str) -> list[str]:
    """What rsync did, in order: the names of files that it wrote, `-NAME` for those it removed."""
    process = start(data, "push", *words, str(site), "--", "--itemize-changes")
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0
    rows = re.findall(r"^(\*deleting|[>ch][fLd]\S+) +(hub/.+?)(?: -> .+| => .+)?$", output, re.M)
    return [f"-{name}" if kind == "*deleting" else name for kind, name in rows if name[-1] != "/"]


def _kinds(names: list[str]) -> list[str]:
    """The kinds of names, in the order in which they came."""
    return list(dict.fromkeys(name.split("/")[2] for name in names if name.count("/") > 2))


def test_a_folder_arrives_whole(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    assert names_below(site) == names_below(data)
    assert "All is as it should be." in hubmirror(site, "verify").stdout
    assert offline_files(site / "hub", MODEL) == digests_of(put_grown(data, 0))


def test_files_come_first_and_refs_last(data: Path, site: Path) -> None:
    kinds = _kinds(_names(data, site))
    assert kinds in [[*_KINDS], ["blobs", "trees", "snapshots", *_KINDS[3:]]]


def test_what_is_under_way_stays_here(data: Path, site: Path) -> None:
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


def test_files_of_the_same_content_stay_one(data: Path, site: Path) -> None:
    one, twin = put_grown(data, 1), put_grown(data, 1, TWIN)
    path = "model-1.safetensors"
    blob(data / "hub", twin, path).unlink()
    blob(data / "hub", twin, path).hardlink_to(blob(data / "hub", one, path))
    hubmirror(data, "push", str(site))
    assert blob(site / "hub", twin, path).samefile(blob(site / "hub", one, path))


def test_a_new_revision_costs_what_changed(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    assert _names(data, site) == []
    put_grown(data, 1)
    names = _names(data, site)
    assert len([name for name in names if "/blobs/" in name]) == 3  # two shards, and README.md
    assert _kinds(names)[-1] == "refs"


def test_a_ref_that_moves_within_a_second_arrives(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    ref = repo_dir(data / "hub") / "refs" / "main"
    before = ref.stat()
    ref.write_text("f" * 40)
    os.utime(ref, ns=(before.st_atime_ns, before.st_mtime_ns))
    hubmirror(data, "push", str(site))
    assert (repo_dir(site / "hub") / "refs" / "main").read_text() == "f" * 40


def test_a_folder_that_lies_elsewhere_is_followed(data: Path, site: Path) -> None:
    (data / "hub").rename(data.parent / "disk")
    (data / "hub").symlink_to("../disk")
    hubmirror(data, "push", str(site))
    assert not (site / "hub").is_symlink()
    assert "All is as it should be." in hubmirror(site, "verify").stdout


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--bwlimit=50m", "{site}"], 2, "No such option"),
        (["--", "-n"], 1, "is no place to copy to"),
        (["{site}", "other"], 1, "is no option of rsync"),
        (["{data}/sub"], 1, "lies in the data folder itself"),
    ],
)
def test_a_copy_that_cannot_be_meant(
    data: Path, site: Path, words: list[str], status: int, told: str
) -> None:
    write(site / "theirs", b"x")
    before = names_below(data)
    said = [word.format(data=data, site=site) for word in words]
    assert told in hubmirror(data, "push", *said, status=status).output
    assert names_below(data) == before


def test_an_empty_folder_empties_no_other(data: Path, site: Path, tmp_path: Path) -> None:
    hubmirror(data, "push", str(site))
    before = names_below(site)
    (tmp_path / "unmounted" / "hub").mkdir(parents=True)
    said = hubmirror(tmp_path / "unmounted", "push", "--delete", str(site), status=1).output
    assert "is its disk mounted?" in said
    assert names_below(site) == before


@pytest.mark.parametrize(("number", "code"), [(0, 24), (2, 24), (2, 23), (3, 23)])
def test_what_rsync_says_at_each_step(
    data: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """Files that vanish are temporary ones of a pull; what fails before the refs is not seen."""
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
    said = hubmirror(data, "push", str(site), status=0 if code == 24 else 1).output
    assert ("vanished" in said) is (code == 24)
    assert ("Nothing that readers saw" in said) is (code == 23 and number < 3)
    assert (names_below(site) == names_below(data)) is (code == 24 or number == 3)


def test_nothing_is_removed_unless_it_is_asked_for(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    before = names_below(site)
    hubmirror(data, "rm", "Org/Twin")
    hubmirror(data, "push", str(site))
    assert names_below(site) == before


def test_removals_come_last_and_pointers_first(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    hubmirror(data, "rm", "Org/Twin")
    put_grown(data, 1)
    hubmirror(data, "gc")
    names = _names(data, site, "--delete")
    removed = [name for name in names if name.startswith("-")]
    assert removed == names[-len(removed) :]
    assert set(_kinds(removed)[:2]) == {"hubmirror", "refs"}
    assert names_below(site) == names_below(data)
    assert "All is as it should be." in hubmirror(site, "verify").stdout


def test_a_file_of_which_half_came_is_not_begun_again(data: Path, site: Path) -> None:
    """And nobody sees the half: it lies in a folder of rsync's."""
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


def test_a_blob_that_was_set_aside_comes_again(data: Path, site: Path) -> None:
    hubmirror(data, "push", str(site))
    flip(blob(site / "hub", put_grown(data, 0), "model-1.safetensors"))
    hubmirror(site, "verify", status=1)
    hubmirror(data, "push", str(site))
    hubmirror(site, "verify")


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("nowhere/at/all", "cannot be written there"),
        ("localhost.invalid:/srv", "rsync failed at files: "),
    ],
)
def test_a_failure_names_its_cause(data: Path, destination: str, said: str) -> None:
    output = hubmirror(data, "push", destination, status=1).output
    assert said in output
    assert "Run the same command again" in output


def test_without_rsync_the_next_step_is_named(
    data: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(data))
    assert "apt-get install rsync" in hubmirror(data, "push", str(site), status=1).output


def test_a_data_folder_that_is_not_there_is_named(tmp_path: Path, site: Path) -> None:
    output = hubmirror(tmp_path / "typo", "push", str(site), status=1).output
    assert "typo is not there" in output
    assert not site.exists()


def test_a_folder_with_a_colon_is_a_folder(tmp_path: Path, site: Path) -> None:
    put_grown(tmp_path / "a:b", 0)
    with contextlib.chdir(tmp_path):
        push(Path("a:b"), str(site))
    hubmirror(site, "verify")


def test_two_pushes_at_once(data: Path, site: Path) -> None:
    """The first lost its terminal, and its rsync goes on."""
    put(data / "hub", Content({"big.bin": os.urandom(3_000_000)}, "b" * 40))
    first = start(data, "push", str(site), "--", "--bwlimit=2m")
    until(lambda: (repo_dir(site / "hub") / "blobs").is_dir())
    first.kill()
    hubmirror(data, "push", str(site))
    hubmirror(site, "verify")
    assert first.stdout is not None
    first.stdout.read()  # the rsync that goes on holds it until its end
    first.wait(30)
    first.stdout.close()
    hubmirror(site, "verify")
    assert names_below(site) == names_below(data)


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    with roomy_folder(tmp_path) as folder:
        yield folder


@pytest.mark.timeout(120 + 20 * KILLS)
def test_killed_at_random_points(
    roomy: Path, later: Later, record_property: Callable[[str, object], None]
) -> None:
    """Each time there is a new revision of both repositories. After the kill what was served is
    served; after the next run the new ones are. Somebody reads all the time."""
    data, site = roomy / "data", roomy / "site"
    known, killer = {}, Killer("push", where=lambda passes: f"among the {passes[-1].strip()}")
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
            killer.kill(data, "push", str(site))
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
