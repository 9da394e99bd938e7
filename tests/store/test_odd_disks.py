"""Commands on file systems that are full, or that have no modes, locks or symlinks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mirror.core.repo import Repo
from mirror.store.cache import Cache
from tests.carried import digests_of, hubmirror, offline_files, put_grown, start
from tests.filling import FILES, MODEL, Filling
from tests.folders import MODEL as OTHER
from tests.folders import make_classic
from tests.hub import EVER, HubSimulator, slow
from tests.odd_disks import needs_own_disk, on_own_disk, refusing, without_modes
from tests.openllm.model_repository import make as make_model_repository
from tests.waiting import until

COMMANDS = [
    "pull org/model --data full --upstream {url}",
    "demo --data full",
    "ca init --ca full/ca",
    "adopt --source hf-cache:cache --data full",
    "bundle apply bundle --data full",
    "openllm pull --repository {repository} --data full --upstream {url}",
]


@needs_own_disk
@pytest.mark.parametrize("options", ["size=4k", "size=64k,nr_inodes=3"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(
    filling: Filling, tmp_path: Path, command: str, options: str
) -> None:
    """No byte is free, or no further name."""
    make_classic(tmp_path / "cache")
    put_grown(tmp_path / "data", 0)
    hubmirror(tmp_path / "data", "bundle", "create", str(tmp_path / "bundle"))
    repository = make_model_repository(tmp_path, "org/model", "f" * 40)
    (tmp_path / "full").mkdir()
    words = command.format(url=filling.url, repository=repository).split()
    mount = (
        f"mount -t tmpfs -o {options} tmpfs full; cat /dev/zero > full/other 2> /dev/null; true;"
    )
    said = on_own_disk(f"{{ {mount} }}", tmp_path, *words)
    errors = [line for line in said.splitlines() if re.match("error", line, re.IGNORECASE)]
    assert "No space left on device" in errors[-1]
    assert "Free space on this disk" in errors[-1]
    assert str(tmp_path / "full") in errors[-1] or " full/" in errors[-1]


@needs_own_disk
def test_an_authority_that_could_not_be_written_can_be_created_again(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    mount = "mount -t tmpfs -o size=64k,nr_inodes=4 tmpfs full; touch full/other"
    again = f'{{ {mount}; "$0" -m mirror ca init --ca full/ca; rm full/other; }}'
    said = on_own_disk(again, tmp_path, "ca", "init", "--ca", "full/ca", status=0)
    assert "No space left on device" in said
    assert "Created full/ca/ca.pem" in said


def test_no_modes(filling: Filling, tmp_path: Path) -> None:
    filling.data.mkdir(exist_ok=True)
    bundle, site = filling.data / "bundle", filling.data / "site"
    with without_modes(filling.data):
        with pytest.raises(PermissionError):
            filling.data.chmod(0o700)
        filling.run("pull", MODEL)
        assert filling.shown() == FILES
        put_grown(tmp_path / "other", 0)
        hubmirror(tmp_path / "other", "bundle", "create", str(bundle))
        hubmirror(site, "bundle", "apply", str(bundle))
        assert offline_files(site / "hub", OTHER) == digests_of(put_grown(tmp_path / "other", 0))
        hubmirror(filling.data / "demo", "demo")
        make_classic(tmp_path / "cache")
        words = "adopt", "--as-whole", "--source", f"hf-cache:{tmp_path / 'cache'}"
        (filling.data / "adopted").mkdir()
        hubmirror(filling.data / "adopted", *words)
        hubmirror(filling.data / "site", "ca", "init", "--ca", str(filling.data / "ca"))
        pushed = str(filling.data / "pushed")
        if shutil.which("rsync"):
            output = hubmirror(tmp_path / "other", "push", pushed, status=1).output
            assert "rsync needs a file system with symlinks and modes" in output
        repository = make_model_repository(tmp_path, "org/model", "f" * 40)
        filling_words = ["openllm", "pull", "--repository", str(repository)]
        hubmirror(filling.data / "openllm", *filling_words)


def test_a_key_that_others_can_read_is_reported(tmp_path: Path) -> None:
    """The modes of a file system without them are those of its mount."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a folder")
    (tmp_path / "ca").mkdir()
    words = ["bindfs", "--perms=0644:u+X:g+X:o+X", str(tmp_path / "ca"), str(tmp_path / "ca")]
    try:
        mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("bindfs is not installed: apt-get install bindfs")
    if mounted.returncode:
        pytest.skip(f"bindfs cannot mount a folder here: {mounted.stderr.strip()}")
    try:
        output = hubmirror(tmp_path / "data", "ca", "init", "--ca", str(tmp_path / "ca")).output
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "ca"], check=True)
    assert "other users of this host can read the key" in output


@pytest.mark.parametrize("errno", ["ENOSYS", "EOPNOTSUPP", "ENOLCK"])
def test_no_locks(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errno: str
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(refusing(tmp_path, "flock", errno=errno)))
    words = ["pull", MODEL, "--upstream", filling.url]
    status, said = _run(filling.data, *words)
    assert (status, "has no locks" in said) == (0, True), said
    for others in (["gc"], ["verify"], ["rm", MODEL], ["gc"]):
        status, said = _run(filling.data, *others)
        assert (status, "Traceback" in said) == (0, False), said


def test_three_pulls_at_once_without_locks(
    simulator: HubSimulator, filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.fail("GET .*/resolve/", slow(0.05), EVER)
    monkeypatch.setenv("LD_PRELOAD", str(refusing(tmp_path, "flock", errno="ENOSYS")))
    words = ["pull", MODEL, "--upstream", filling.url]
    pulls = [start(filling.data, *words, stderr=subprocess.STDOUT) for _ in range(3)]
    until(lambda: any(filling.hub.glob(".hubmirror/staging/*/*")))
    status, said = _run(filling.data, "gc")  # it keeps what the pulls have
    assert status == 0, said
    for pull in pulls:
        output = pull.communicate(timeout=120)[0].decode()
        assert pull.returncode == 0, output
    monkeypatch.delenv("LD_PRELOAD")
    assert filling.shown() == FILES
    assert "No problems found." in filling.run("verify").output


def test_no_symlinks_is_reported_before_the_work(
    simulator: HubSimulator, filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_classic(tmp_path / "cache")
    put_grown(tmp_path / "other", 0)
    hubmirror(tmp_path / "other", "bundle", "create", str(tmp_path / "bundle"))
    monkeypatch.setenv("LD_PRELOAD", str(refusing(tmp_path, "symlink")))
    for words in (
        ["pull", MODEL, "--upstream", filling.url],
        ["adopt", "--as-whole", "--source", f"hf-cache:{tmp_path / 'cache'}"],
        ["bundle", "apply", str(tmp_path / "bundle")],
        ["demo", "--data", "empty"],
    ):
        status, said = _run(filling.data, *words)
        assert status == 1, said
        assert "has no symlinks (Operation not permitted)" in said
        assert said.count("\n") < 4
    assert simulator.count("GET .*/resolve/") == 0
    assert [path.name for path in filling.hub.iterdir()] == [".hubmirror"]


def test_no_hard_links(
    simulator: HubSimulator, filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.repo("org/twin").commit(FILES)
    monkeypatch.setenv("LD_PRELOAD", str(refusing(tmp_path, "link", errno="EOPNOTSUPP")))
    for repo in (MODEL, "org/twin"):
        status, said = _run(filling.data, "pull", repo, "--upstream", filling.url)
        assert status == 0, said
    assert filling.shown(repo="org/twin") == FILES
    assert simulator.count("GET .*/resolve/") <= len(FILES)
    cache = Cache.of(filling.hub)
    blobs = [cache.folder(Repo.parse(repo)).blobs for repo in (MODEL, "org/twin")]
    assert all(path.stat().st_nlink == 1 for folder in blobs for path in folder.iterdir())


def _run(data: Path, *words: str) -> tuple[int, str]:
    process = start(data, *words, stderr=subprocess.STDOUT)
    output = process.communicate(timeout=120)[0].decode()
    return process.returncode, output
