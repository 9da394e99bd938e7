"""A file that has no descriptor, or another address, is served by plain HTTP and by Xet alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random

import httpx2
import pytest

from mirror.core.blob import Blob
from mirror.core.errors import RepositoryNotFoundError, RevisionNotFoundError
from mirror.core.repo import Repo, find_commit
from mirror.core.source import Layout, Snapshot
from mirror.core.tree import RepoFile
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.derived.xet_hashes import XetHashes
from tests.conftest import Serve
from tests.folders import COMMIT, MODEL, entry
from tests.web.test_xet import read

BODY = Random("blob").randbytes(20_000_003)
XET_HASH = 64 * "b"
FILES = {"large.bin": BODY, "small.txt": b"small"}


@dataclass
class Bytes:
    """A blob in memory, whose second half arrives later; `url` is another address of it."""

    body: bytes
    arrived: threading.Event
    url: str | None = None

    @property
    def size(self) -> int:
        return len(self.body)

    def ready(self, offset: int) -> int:
        here = len(self.body) if self.arrived.is_set() else len(self.body) // 2
        return max(0, here - offset)

    def pread(self, offset: int, count: int) -> bytes:
        assert self.ready(offset) >= min(count, self.size - offset)
        return self.body[offset : offset + count]

    def fileno(self) -> None:
        return None

    def redirect_url(self) -> str | None:
        return self.url

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class RemoteFile:
    file: RepoFile
    opened: Callable[[], Blob]
    problem: str = ""
    local_path: None = None

    def open(self) -> Blob:
        return self.opened()

    def check(self) -> None:
        pass


class Remote:
    """A source of an out-of-tree kind: nothing of it is on a disk of this host."""

    label = "remote"
    layout = Layout.OTHER
    root = None

    def __init__(self, url: str | None = None) -> None:
        self.arrived = threading.Event()
        self._url = url

    def repos(self) -> list[Repo]:
        return [MODEL]

    def refs(self, repo: Repo) -> Mapping[str, str]:
        self._check(repo)
        return {"refs/heads/main": COMMIT}

    def commits(self, repo: Repo) -> list[str]:
        self._check(repo)
        return [COMMIT]

    def _check(self, repo: Repo) -> None:
        if repo.key != MODEL.key:
            raise RepositoryNotFoundError(repo)

    def snapshot(self, repo: Repo, revision: str) -> Snapshot:
        if find_commit(revision, self.refs(repo), [COMMIT]) is None:
            raise RevisionNotFoundError(repo, revision)
        files = {path: RemoteFile(self._entry(path), self._opener(path)) for path in FILES}
        return Snapshot(MODEL, COMMIT, files, datetime(2026, 1, 1, tzinfo=UTC))

    def stamp(self, repo: Repo) -> Hashable:
        self._check(repo)
        return 1

    def identities(self) -> list[str]:
        return []

    def unrecorded(self) -> list[Repo]:
        return []

    def _entry(self, path: str) -> RepoFile:
        file = entry(path, FILES[path])
        return replace(file, xet_hash=XET_HASH) if file.lfs_sha256 else file

    def _opener(self, path: str) -> Callable[[], Blob]:
        return lambda: Bytes(FILES[path], self.arrived, self._url)


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def client(remote: Remote, state: State, serve: Serve) -> Iterator[httpx2.Client]:
    with closing(Digests(state)) as digests:
        yield serve(remote, xet_hashes=XetHashes(digests))


LARGE = "/Org/Model/resolve/main/large.bin"


def test_what_has_arrived_is_sent_at_once(client: httpx2.Client, remote: Remote) -> None:
    head = client.get(LARGE, headers={"range": "bytes=0-999999"})
    assert (head.status_code, head.content) == (206, BODY[:1_000_000])
    assert client.get("/Org/Model/resolve/main/small.txt", headers={"range": "bytes=0-1"}).content
    remote.arrived.set()
    assert client.get(LARGE).content == BODY
    assert client.get(LARGE, headers={"range": "bytes=-5"}).content == BODY[-5:]


def test_it_is_served_by_xet_as_well(client: httpx2.Client, remote: Remote) -> None:
    remote.arrived.set()
    address = client.get("/api/models/Org/Model/xet-read-token/main").json()["casUrl"]
    body = client.get(f"{address}/v2/reconstructions/{XET_HASH}").json()
    assert read(client, body, len(BODY)) == BODY


def test_a_client_may_be_sent_to_another_address(state: State, serve: Serve) -> None:
    client = serve(Remote("https://store.example/large?signature=x"))
    answer = client.get(LARGE, follow_redirects=False)
    assert answer.status_code == 302
    assert answer.headers["location"] == "https://store.example/large?signature=x"
    assert answer.headers["x-repo-commit"] == COMMIT
    assert client.head(LARGE).headers["content-length"] == str(len(BODY))
