"""What every kind of source must do. A kind's test is a subclass of `SourceCompliance` that gives a
`Case`; a source outside of this package can be tested in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.core.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.core.repo import COMMIT_HASH, Repo, check_ref
from mirror.core.source import Layout, Source
from mirror.core.tree import blob_hash, check_file_path

ABSENT = Repo.parse("Nobody/Nothing")


@dataclass(frozen=True)
class Case:
    """A source, and what it was made from: one repository with `files` at one commit.

    `change` changes or adds a file of the repository; None if nobody can.
    """

    source: Source
    files: Mapping[str, bytes]
    repo: Repo
    change: Callable[[], None] | None = None


class SourceCompliance:
    """Give a fixture `case`, and all of this is run on it."""

    def test_it_lists_its_repositories(self, case: Case) -> None:
        assert [repo.key for repo in case.source.repos()] == [case.repo.key]

    def test_a_ref_and_its_commit_mean_the_same(self, case: Case) -> None:
        refs = case.source.refs(case.repo)
        assert refs
        for name, commit in refs.items():
            assert check_ref(name) == name
            assert COMMIT_HASH.fullmatch(commit)
            assert commit in case.source.commits(case.repo)
            by_ref = case.source.snapshot(case.repo, name)
            assert by_ref.commit_hash == commit
            for revision in (commit, commit[:12], name.removeprefix("refs/heads/")):
                assert case.source.snapshot(case.repo, revision).commit_hash == commit

    def test_head_is_the_default_branch(self, case: Case) -> None:
        found = case.source.snapshot(case.repo, "HEAD")
        assert found.commit_hash in case.source.refs(case.repo).values()
        assert found.last_modified.tzinfo is not None

    def test_a_repository_is_found_in_any_case(self, case: Case) -> None:
        other = Repo(case.repo.repo_type, case.repo.repo_id.swapcase())
        assert case.source.snapshot(other, "HEAD").repo.key == case.repo.key
        assert case.source.stamp(other) == case.source.stamp(case.repo)

    def test_every_file_has_its_bytes_and_digests(self, case: Case) -> None:
        files = case.source.snapshot(case.repo, "HEAD").files
        assert set(case.files) <= set(files)
        for path, body in case.files.items():
            stored = files[path]
            assert (stored.file.path, stored.file.size) == (path, len(body))
            assert check_file_path(path) == path
            digest = blob_hash(stored.file.etag, len(body))
            digest.update(body)
            assert stored.file.etag == digest.hexdigest()
            assert stored.problem == ""
            stored.check()
            with closing(stored.open()) as blob:
                assert blob.size == len(body)
                assert blob.pread(0, len(body)) == body
                assert blob.pread(len(body) // 2, len(body)) == body[len(body) // 2 :]
                assert blob.pread(len(body), 10) == b""
                assert blob.fileno() is not None or stored.local_path is None

    def test_what_is_absent_is_said_by_its_own_error(self, case: Case) -> None:
        for call in (case.source.refs, case.source.commits, case.source.stamp):
            with pytest.raises(RepositoryNotFoundError):
                call(ABSENT)
        with pytest.raises(RepositoryNotFoundError):
            case.source.snapshot(ABSENT, "main")
        for revision in ("nothing", 40 * "0", "refs/pr/99", "../x"):
            with pytest.raises(RevisionNotFoundError):
                case.source.snapshot(case.repo, revision)
        with pytest.raises(EntryNotFoundError):
            case.source.snapshot(case.repo, "HEAD").find("no/such/file")

    def test_a_snapshot_is_a_value(self, case: Case) -> None:
        first = case.source.snapshot(case.repo, "HEAD")
        second = case.source.snapshot(case.repo, "HEAD")
        assert first.commit_hash == second.commit_hash
        assert {path: one.file for path, one in first.files.items()} == {
            path: one.file for path, one in second.files.items()
        }

    def test_many_threads_may_ask_at_once(self, case: Case) -> None:
        with ThreadPoolExecutor(8) as threads:
            found = list(
                threads.map(
                    lambda _: case.source.snapshot(case.repo, "HEAD").commit_hash, range(32)
                )
            )
        assert len(set(found)) == 1

    def test_a_change_changes_the_stamp(self, case: Case) -> None:
        before = case.source.stamp(case.repo)
        assert hash(before) == hash(case.source.stamp(case.repo))
        if case.change is not None:
            case.change()
            assert case.source.stamp(case.repo) != before

    def test_it_says_what_it_is(self, case: Case) -> None:
        source = case.source
        assert source.label
        assert source.layout in Layout
        assert source.root is None or source.root.is_dir()
        assert all(isinstance(name, str) for name in source.identities())
        assert list(source.unrecorded()) == []

    def test_a_folder_that_is_gone_is_an_outage(self, case: Case) -> None:
        root = case.source.root
        if root is None:
            pytest.skip("this source has no folder")
        root.rename(root.with_name("away"))
        root.write_text("not a folder")
        for ask in (lambda: list(case.source.repos()), lambda: case.source.snapshot(ABSENT, "x")):
            with pytest.raises((UnavailableError, RepositoryNotFoundError)):
                ask()


def touch(path: Path, body: bytes = b"more") -> Callable[[], None]:
    """Writes a file."""
    return lambda: _write(path, body)


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
