"""Plain folders: digests computed once, and a commit hash that is a digest of the tree."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from mirror.core.errors import (
    BlobUnreadableError,
    DigestPendingError,
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.core.repo import Repo
from mirror.core.source import LocalFile
from mirror.core.tree import lfs_pointer
from mirror.derived.digests import DigestJob, Digests
from mirror.derived.state import State
from mirror.sources import plain as plain_files
from mirror.sources.folder import Folder
from mirror.sources.scan import LfsRule
from tests.folders import FILES, MODEL, Content, content_of, make_plain, write
from tests.waiting import until


@pytest.fixture
def root(tmp_path: Path, plain: Folder) -> Path:
    return make_plain(tmp_path / "plain")


def _entries(source: Folder) -> dict[str, object]:
    return {path: one.file for path, one in source.snapshot(MODEL, "main").files.items()}


def test_entries_are_those_of_the_real_hub(root: Path, plain: Folder) -> None:
    entries = _entries(plain)
    del entries[".gitattributes"]
    assert entries == Content().entries


def test_the_commit_has_gits_tree_and_git_gives_it_the_same_hash(root: Path, plain: Folder) -> None:
    for path, file in Content().entries.items():
        if file.lfs_sha256:
            write(root / path, lfs_pointer(file.lfs_sha256, file.size))
    who = {"NAME": "hubmirror", "EMAIL": "hubmirror@localhost", "DATE": "@0 +0000"}
    roles = ("AUTHOR", "COMMITTER")
    settings = {f"GIT_{role}_{key}": text for key, text in who.items() for role in roles}
    git_lfs = ["-c", "filter.lfs.clean=cat", "-c", "filter.lfs.process="]

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *git_lfs, *words]
        environment = {**os.environ, **settings, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    commit = git("commit-tree", "-m", "The files of a folder", git("write-tree"))
    make_plain(root)
    assert plain.snapshot(MODEL, "main").commit_hash == commit


def test_what_tools_leave_behind_is_not_served(root: Path, plain: Folder) -> None:
    write(root / ".git" / "config", b"secret")
    write(root / ".cache" / "huggingface" / "download" / "config.json.metadata", b"x")
    assert _entries(plain).keys() == {*FILES, ".gitattributes"}


def test_a_change_gives_another_commit(root: Path, plain: Folder) -> None:
    before = plain.snapshot(MODEL, "main").commit_hash
    write(root / "config.json", b'{"changed": true}')
    after = plain.snapshot(MODEL, "main").commit_hash
    assert after != before
    with pytest.raises(RevisionNotFoundError, match=after):
        plain.snapshot(MODEL, before)


def test_an_absent_file_is_a_promise(root: Path, plain: Folder) -> None:
    with pytest.raises(EntryNotFoundError) as failure:
        plain.snapshot(MODEL, "main").find("nope.json")
    assert failure.value.known


def test_without_gitattributes_binary_files_are_lfs(root: Path, plain: Folder) -> None:
    (root / ".gitattributes").unlink()
    assert _entries(plain) == Content().entries


def test_links_inside_the_folder_are_followed(root: Path, plain: Folder) -> None:
    (root / "alias.json").symlink_to("config.json")
    snapshot = plain.snapshot(MODEL, "main")
    assert snapshot.find("alias.json").file.blob_id == snapshot.find("config.json").file.blob_id


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/etc/hostname", "outside the folder"),
        ("evil", "points to itself"),
        ("nowhere", "does not exist"),
        ("sub dir", "not a regular file"),
    ],
)
def test_other_links_are_not_followed(root: Path, plain: Folder, target: str, reason: str) -> None:
    (root / "evil").symlink_to(target)
    with pytest.raises(BlobUnreadableError, match=reason):
        plain.snapshot(MODEL, "main").find("evil").open()


def test_a_git_clone_without_lfs_content(root: Path, plain: Folder) -> None:
    write(root / "w.safetensors", lfs_pointer(64 * "a", 10))
    stored = plain.snapshot(MODEL, "main").find("w.safetensors")
    assert (stored.file.lfs_sha256, stored.file.size) == (64 * "a", 10)
    with pytest.raises(BlobUnreadableError, match="git lfs pull"):
        stored.open()


def test_a_git_clone_with_lfs_objects(root: Path, plain: Folder) -> None:
    sha256 = hashlib.sha256(b"content").hexdigest()
    write(root / "w.safetensors", lfs_pointer(sha256, 7))
    write(root / f".git/lfs/objects/{sha256[:2]}/{sha256[2:4]}/{sha256}", b"content")
    stored = plain.snapshot(MODEL, "main").find("w.safetensors")
    assert stored.file.lfs_sha256 == sha256
    assert content_of(stored) == b"content"


def test_only_its_own_repository_is_answered(root: Path, plain: Folder) -> None:
    assert plain.snapshot(Repo.parse("org/model"), "HEAD").repo == MODEL
    with pytest.raises(RepositoryNotFoundError):
        plain.snapshot(Repo.parse("datasets/Org/Model"), "main")


def test_a_folder_that_went_away_is_an_outage(tmp_path: Path, plain: Folder) -> None:
    (tmp_path / "plain").rmdir()
    with pytest.raises(UnavailableError) as failure:
        plain.snapshot(MODEL, "main")
    assert str(tmp_path) not in str(failure.value)


def test_digests_are_kept_in_the_state_folder(root: Path, plain: Folder, state: State) -> None:
    first = plain.snapshot(MODEL, "main").commit_hash
    found = (root / "config.json").stat()
    write(root / "config.json", b"{" + b"x" * (found.st_size - 1))
    os.utime(root / "config.json", ns=(found.st_atime_ns, found.st_mtime_ns))
    digests = Digests(state)
    again = Folder(root, MODEL, digests, ttl_s=0)
    assert again.snapshot(MODEL, "main").commit_hash == first  # the same size and mtime
    digests.close()


def test_a_long_hash_is_pending(root: Path, state: State) -> None:
    os.truncate(root / "model.safetensors", 2_000_000_000)
    digests = Digests(state, timeout_s=0.01)
    source = Folder(root, MODEL, digests, ttl_s=0)
    with pytest.raises(DigestPendingError, match=r"2\.0 GB are left"):
        source.snapshot(MODEL, "main")
    digests.close()


# A large folder


def test_a_folder_in_which_nothing_changed_is_the_same_snapshot(root: Path, plain: Folder) -> None:
    before = plain.snapshot(MODEL, "main")
    assert plain.snapshot(MODEL, "main") is before
    write(root / "new.txt", b"new")
    after = plain.snapshot(MODEL, "main")
    assert after.files["config.json"] is before.files["config.json"]
    assert after.commit_hash != before.commit_hash


def test_files_that_did_not_change_are_not_read(
    root: Path, plain: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.snapshot(MODEL, "main")
    looked_into = []
    by_rule = plain_files.by_rule

    def counted(path: str, want: DigestJob, rule: LfsRule) -> DigestJob | LocalFile:
        looked_into.append(path)
        return by_rule(path, want, rule)

    monkeypatch.setattr(plain_files, "by_rule", counted)
    write(root / "config.json", b"{}")
    plain.snapshot(MODEL, "main")
    assert looked_into == ["config.json"]


def test_another_rule_names_all_files_anew(root: Path, plain: Folder) -> None:
    before = plain.snapshot(MODEL, "main").find("config.json").file
    write(root / ".gitattributes", b"*.json filter=lfs diff=lfs merge=lfs -text\n")
    after = plain.snapshot(MODEL, "main").find("config.json").file
    assert (before.lfs_sha256, after.lfs_sha256 is None) == (None, False)


def test_a_look_that_takes_long_keeps_nobody_waiting(
    root: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.sources.folder.hold_s", lambda *_: 0.01)
    read = plain_files.PlainFiles.read

    def slow(*words: Any, **named: Any) -> plain_files.PlainFiles:
        time.sleep(0.3)
        return read(*words, **named)

    monkeypatch.setattr(plain_files.PlainFiles, "read", slow)
    source = Folder(root, MODEL, digests)
    before = source.snapshot(MODEL, "main").commit_hash
    write(root / "config.json", b'{"changed": true}')
    time.sleep(0.02)
    started = time.monotonic()
    assert source.snapshot(MODEL, "main").commit_hash == before
    assert time.monotonic() - started < 0.2
    with pytest.raises(BlobUnreadableError):
        source.snapshot(MODEL, "main").find("config.json").open()
    until(lambda: source.snapshot(MODEL, "main").commit_hash != before, 10)
    root.rename(root.with_name("elsewhere"))
    time.sleep(0.02)
    with pytest.raises(UnavailableError):
        source.snapshot(MODEL, "main")
