"""Digests of what is on the disk, read while it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mirror.core.tree import RepoFile, git_id, lfs_file
from mirror.store import verify_digest as proof
from mirror.store.verify_digest import TailHasher, digest
from tests.carried import until

BODY = Random("proof").randbytes(3_000_001)
FILE = lfs_file("a.bin", len(BODY), hashlib.sha256(BODY).hexdigest())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file pays a thread, which reads in small steps."""
    monkeypatch.setattr(proof, "_MIN_TAILED_SIZE", 0)
    monkeypatch.setattr(proof, "_READ", 100_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.incomplete"


def writing(path: Path, step: int = 700_000) -> Iterator[int]:
    """Write the body step by step."""
    for start in range(0, len(BODY), step):
        with path.open("ab") as file:
            file.write(BODY[start : start + step])
        yield start + step


@pytest.mark.parametrize("file", [FILE, RepoFile("a.bin", len(BODY), git_id("blob", BODY))])
def test_a_file_is_read_while_it_is_written(path: Path, file: RepoFile) -> None:
    with TailHasher(file, path) as following:
        for written in writing(path):
            seen = min(written, len(BODY))
            until(lambda: following.count == seen)  # noqa: B023
        renamed = path.rename(path.with_name("b"))
        assert following.digest(renamed) == digest(renamed, file.etag, file.size) == file.etag


def test_what_came_last_is_read_at_the_end(path: Path) -> None:
    with TailHasher(FILE, path) as following:
        path.write_bytes(BODY[:10])
        until(lambda: following.count == 10)
        with path.open("ab") as file:
            file.write(BODY[10:])
        assert following.digest(path) == FILE.etag


def test_another_try_writes_another_file(path: Path) -> None:
    other = path.with_name("b.incomplete")
    with TailHasher(FILE, path) as following:
        path.write_bytes(BODY)
        until(lambda: following.count == len(BODY))
        other.write_bytes(BODY)
        assert following.digest(other) is None


def test_what_a_client_writes_again_is_read_again(path: Path) -> None:
    with TailHasher(FILE, path) as following:
        path.write_bytes(BODY)
        until(lambda: following.count == len(BODY))
        following.invalidate()
        assert following.digest(path) is None


def test_a_file_that_was_cut(path: Path) -> None:
    with TailHasher(FILE, path) as following:
        path.write_bytes(BODY + b"more")
        until(lambda: following.count == len(BODY) + 4)
        with path.open("ab") as file:
            file.truncate(len(BODY))
        assert following.digest(path) is None


def test_a_file_that_was_never_found(path: Path) -> None:
    with TailHasher(FILE, path.with_name("other")) as following:
        path.write_bytes(BODY)
        assert following.digest(path) is None


def test_a_disk_that_fails_is_no_proof(path: Path) -> None:
    path.mkdir()
    with TailHasher(FILE, path) as following:
        until(lambda: not following.is_alive)
        path.rmdir()
        path.write_bytes(BODY)
        assert following.digest(path) is None
