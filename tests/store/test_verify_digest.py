"""Digests of files on disk, including a file during its download."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mirror.core.tree import RepoFile, git_id, lfs_file
from mirror.store import verify_digest as proof
from mirror.store.verify_digest import TailHasher, digest
from tests.waiting import until

BODY = Random("proof").randbytes(3_000_001)
FILE = lfs_file("a.bin", len(BODY), hashlib.sha256(BODY).hexdigest())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash every file in a thread, in small blocks."""
    monkeypatch.setattr(proof, "_MIN_TAILED_SIZE", 0)
    monkeypatch.setattr(proof, "_READ", 100_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.incomplete"


def writing(path: Path, step: int = 700_000) -> Iterator[int]:
    """Write the body in several parts."""
    for start in range(0, len(BODY), step):
        with path.open("ab") as file:
            file.write(BODY[start : start + step])
        yield start + step


@pytest.mark.parametrize("file", [FILE, RepoFile("a.bin", len(BODY), git_id("blob", BODY))])
def test_tail_hasher_hashes_during_the_download(path: Path, file: RepoFile) -> None:
    with TailHasher(file, path) as following:
        for written in writing(path):
            seen = min(written, len(BODY))
            until(lambda: following.count == seen)  # noqa: B023
        renamed = path.rename(path.with_name("b"))
        assert following.digest(renamed) == digest(renamed, file.etag, file.size) == file.etag


def test_tail_hasher_hashes_the_rest_at_the_end(path: Path) -> None:
    with TailHasher(FILE, path) as following:
        path.write_bytes(BODY[:10])
        until(lambda: following.count == 10)
        with path.open("ab") as file:
            file.write(BODY[10:])
        assert following.digest(path) == FILE.etag


def test_digest_is_none_for_another_file(path: Path) -> None:
    other = path.with_name("b.incomplete")
    with TailHasher(FILE, path) as following:
        path.write_bytes(BODY)
        until(lambda: following.count == len(BODY))
        other.write_bytes(BODY)
        assert following.digest(other) is None


def test_digest_is_none_after_invalidate(path: Path) -> None:
    with TailHasher(FILE, path) as following:
        path.write_bytes(BODY)
        until(lambda: following.count == len(BODY))
        following.invalidate()
        assert following.digest(path) is None


def test_digest_is_none_for_a_truncated_file(path: Path) -> None:
    with TailHasher(FILE, path) as following:
        path.write_bytes(BODY + b"more")
        until(lambda: following.count == len(BODY) + 4)
        with path.open("ab") as file:
            file.truncate(len(BODY))
        assert following.digest(path) is None


def test_digest_is_none_for_a_file_that_never_existed(path: Path) -> None:
    with TailHasher(FILE, path.with_name("other")) as following:
        path.write_bytes(BODY)
        assert following.digest(path) is None


def test_digest_is_none_after_a_read_error(path: Path) -> None:
    path.mkdir()
    with TailHasher(FILE, path) as following:
        until(lambda: not following.is_alive)
        path.rmdir()
        path.write_bytes(BODY)
        assert following.digest(path) is None
