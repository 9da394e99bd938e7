"""Which xet hash a file has: told, or computed on demand, once for all who share a state folder."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import hf_xet
import httpx2
import pytest

from mirror.core.errors import (
    BlobUnreadableError,
    DigestPendingError,
    UnavailableError,
    XetHashNotFoundError,
)
from mirror.core.record import render_tree
from mirror.core.repo import Repo
from mirror.core.source import StoredFile
from mirror.derived.digests import DigestJob, Digests, Kind
from mirror.derived.state import State
from mirror.derived.xet_hashes import XetHashes
from mirror.sources.hf_cache import HfCache
from tests import folders
from tests.conftest import Serve
from tests.folders import COMMIT, MODEL, OLDER, Content
from tests.waiting import until
from tests.web.test_xet import cas, read

BODY, OTHER = os.urandom(300_000), os.urandom(200_000)
PATH = "/Org/Model/resolve/main/model.bin"
TWO = {"model.bin": BODY, "other.bin": OTHER}
NOBODYS = 64 * "e"
HTTP_LIMIT = 50_000_000_000


@pytest.fixture
def hashes(digests: Digests) -> XetHashes:
    return XetHashes(digests)


@contextmanager
def held(state: State) -> Iterator[None]:
    """As if another process computed a digest: meanwhile nobody else does."""
    with lock_file(state) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lock_file(state: State) -> IO[str]:
    state.folder.mkdir(parents=True, exist_ok=True)
    return (state.folder / "digests.lock").open("w")


def is_held(state: State) -> bool:
    with lock_file(state) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def true_hash(path: Path | str) -> str:
    return str(hf_xet.hash_files([str(path)])[0].hash)


def wanted(path: Path | str, size: int | None = None, kind: Kind = "xet") -> DigestJob:
    found = Path(path).stat()
    return DigestJob(str(path), found.st_size if size is None else size, found.st_mtime_ns, kind)


def blob_of(folder: Path, path: str = "model.bin") -> Path:
    return (folder / "snapshots" / COMMIT / path).resolve()


def hint(client: httpx2.Client, path: str = PATH) -> str | None:
    return client.head(path).headers.get("x-xet-hash")


def ask(client: httpx2.Client, xet_hash: str, last: int | None = None) -> httpx2.Response:
    headers = {} if last is None else {"range": f"bytes=0-{last}"}
    return client.get(f"{cas()}/v2/reconstructions/{xet_hash}", headers=headers)


# On demand


def test_a_hash_is_told_once_it_is_computed(
    hub: Path, foreign: HfCache, hashes: XetHashes, serve: Serve
) -> None:
    blob = blob_of(folders.make_classic(hub, Content({"model.bin": BODY})))
    client = serve(foreign, xet_hashes=hashes)
    first = client.get(PATH)
    assert (first.content, "x-xet-hash" in first.headers, first.links) == (BODY, False, {})
    until(lambda: hint(client) is not None)
    assert hint(client) == true_hash(blob)
    (row,) = client.get("/api/models/Org/Model/tree/main").json()
    assert row["xetHash"] == true_hash(blob)
    body = ask(client, true_hash(blob)).json()
    assert read(client, body, len(BODY)) == BODY


@pytest.mark.parametrize("body", [b"", b"1", bytes(131_072), BODY * 30], ids=len)
def test_the_hash_is_the_true_one(tmp_path: Path, digests: Digests, body: bytes) -> None:
    (tmp_path / "file").write_bytes(body)
    found = digests.start(wanted(tmp_path / "file")).result(30)
    assert found == true_hash(tmp_path / "file")


def test_a_hash_is_known_at_once_after_a_restart(
    hub: Path, foreign: HfCache, digests: Digests, state: State, serve: Serve
) -> None:
    blob = blob_of(folders.make_classic(hub, Content({"model.bin": BODY})))
    computed = digests.start(wanted(blob)).result(30)
    with held(state), closing(Digests(State(state.folder))) as again:
        assert hint(serve(foreign, xet_hashes=XetHashes(again))) == computed


@contextmanager
def nothing_computed() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert "digests" not in {one.name for one in set(threading.enumerate()) - before}


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("model.bin", {"advertise": False}),
        ("model.bin", {"min_size": len(BODY) + 1}),
        ("config.json", {}),
    ],
    ids=["no-xet", "too-small", "not-in-lfs"],
)
def test_a_hash_that_nobody_is_told_is_not_computed(
    hub: Path, foreign: HfCache, digests: Digests, serve: Serve, path: str, options: dict[str, Any]
) -> None:
    folders.make_classic(hub, Content({"model.bin": BODY, "config.json": b"{}"}))
    client = serve(foreign, xet_hashes=XetHashes(digests, **options))
    with nothing_computed():
        assert hint(client, f"/Org/Model/resolve/main/{path}") is None


def test_a_listing_has_nothing_computed(
    hub: Path, foreign: HfCache, hashes: XetHashes, serve: Serve
) -> None:
    folders.make_classic(hub, Content({"model.bin": BODY}))
    client = serve(foreign, xet_hashes=hashes)
    with nothing_computed():
        assert "xet" not in client.get("/api/models/Org/Model/tree/main").text
        assert "xet" not in client.get("/api/models/Org/Model?blobs=true").text


def test_a_shared_blob_store_tells_hashes(
    hub: Path, foreign: HfCache, hashes: XetHashes, serve: Serve
) -> None:
    blob = blob_of(folders.make_shared(hub, Content({"model.bin": BODY})))
    client = serve(foreign, xet_hashes=hashes)
    with nothing_computed():
        assert hint(client) == blob.name
        assert read(client, ask(client, blob.name).json(), len(BODY)) == BODY


def test_a_tree_file_tells_hashes(
    hub: Path, foreign: HfCache, hashes: XetHashes, serve: Serve
) -> None:
    content = Content({"model.bin": BODY})
    folder = folders.make_classic(hub, content)
    told = [replace(file, xet_hash=NOBODYS) for file in content.entries.values()]
    folders.write(folder / "trees" / f"{COMMIT}.json", render_tree(told))
    with nothing_computed():
        assert hint(serve(foreign, xet_hashes=hashes)) == NOBODYS


@pytest.mark.parametrize(
    "bad",
    [5, ["e"], "e", 64 * "E", 63 * "e" + "\u20ac", "e\r\nx-evil: 1"],
    ids=["number", "list", "short", "capitals", "no-ascii", "two-lines"],
)
def test_what_is_no_hash_is_told_to_nobody(
    hub: Path, foreign: HfCache, hashes: XetHashes, serve: Serve, bad: Any
) -> None:
    content = Content({"model.bin": BODY})
    folder = folders.make_classic(hub, content)
    damaged = [replace(file, xet_hash=bad) for file in content.entries.values()]
    folders.write(folder / "trees" / f"{COMMIT}.json", render_tree(damaged))
    answer = serve(foreign, xet_hashes=hashes).get(PATH)
    assert (answer.status_code, answer.content) == (200, BODY)
    assert not {"x-xet-hash", "x-evil"} & set(answer.headers)


@pytest.mark.parametrize(("min_size", "found"), [(len(BODY), NOBODYS), (len(BODY) + 1, None)])
def test_files_below_the_least_size_are_not_told_and_served_all_the_same(
    hub: Path, managed: HfCache, digests: Digests, serve: Serve, min_size: int, found: str | None
) -> None:
    content = Content({"model.bin": BODY})
    files = {path: replace(file, xet_hash=NOBODYS) for path, file in content.entries.items()}
    folders.make_managed(hub, content, files=files)
    client = serve(managed, xet_hashes=XetHashes(digests, min_size))
    assert hint(client) == found
    (row,) = client.get("/api/models/Org/Model/tree/main").json()
    assert row.get("xetHash") == found
    assert read(client, ask(client, NOBODYS).json(), len(BODY)) == BODY


# A file that changes


def test_a_hash_is_forgotten_when_the_content_changes(
    hub: Path, foreign: HfCache, hashes: XetHashes, serve: Serve
) -> None:
    blob = blob_of(folders.make_classic(hub, Content({"model.bin": BODY})))
    client = serve(foreign, xet_hashes=hashes)
    until(lambda: hint(client) is not None)
    blob.write_bytes(BODY[::-1])
    os.utime(blob, ns=(0, 0))
    assert hint(client) is None
    until(lambda: hint(client) is not None)
    assert hint(client) == true_hash(blob)


def test_a_blob_that_changed_its_size_is_not_served(
    hub: Path, digests: Digests, hashes: XetHashes, serve: Serve
) -> None:
    blob = blob_of(folders.make_managed(hub, Content({"model.bin": BODY})))
    source = HfCache(hub, digests, managed=True, ttl_s=60)  # it still believes in the file
    client = serve(source, xet_hashes=hashes)
    body = ask(client, digests.start(wanted(blob)).result(30)).json()
    (fetch,) = body["xorbs"][body["terms"][0]["hash"]]
    with blob.open("ab") as file:
        file.write(b"more")
    for headers in ({}, {"range": "bytes=0-99"}, {"range": f"bytes=-{len(BODY)}"}):
        answer = client.get(fetch["url"], headers=headers)
        assert (answer.status_code, "expected" in answer.json()["error"]) == (503, True)
    assert hint(client) is None


def test_a_file_that_changes_while_it_is_read_has_no_hash(tmp_path: Path, digests: Digests) -> None:
    (tmp_path / "file").write_bytes(BODY)
    with pytest.raises(BlobUnreadableError, match="changed while it was read"):
        digests.start(wanted(tmp_path / "file", size=7)).result(30)


def test_a_file_that_vanishes_has_no_hash(tmp_path: Path, digests: Digests) -> None:
    with pytest.raises(BlobUnreadableError):
        digests.start(DigestJob(str(tmp_path / "file"), 1, 1, "xet")).result(30)


# One at a time


def test_who_shares_a_folder_takes_turns(tmp_path: Path, state: State, digests: Digests) -> None:
    file = tmp_path / "file"
    file.write_bytes(BODY)
    with closing(Digests(State(state.folder))) as other:
        digests.start(wanted(long_file(tmp_path), kind="sha256"))
        until(lambda: state.is_locked(State.MAIN))
        waiting = other.start(wanted(file))
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        digests.close()
        assert waiting.result(30) == true_hash(file)


def long_file(folder: Path) -> Path:
    """A file that takes a core some minutes, and the disk nothing."""
    with (folder / "long").open("wb") as file:
        file.truncate(300_000_000_000)
    return folder / "long"


def test_what_one_has_computed_all_know(tmp_path: Path, state: State, digests: Digests) -> None:
    (tmp_path / "file").write_bytes(BODY)
    one = wanted(tmp_path / "file")
    with closing(Digests(State(state.folder))) as other:
        assert other.known(one) is None
        found = digests.start(one).result(30)
        assert other.known(one) == found


def test_what_another_computed_of_a_changed_file_is_known(
    tmp_path: Path, state: State, digests: Digests
) -> None:
    file = tmp_path / "file"
    with closing(Digests(State(state.folder))) as other:
        for body in (BODY, OTHER):
            file.write_bytes(body)
            found = digests.start(wanted(file)).result(30)
            assert other.known(wanted(file)) == digests.known(wanted(file)) == found


def test_servers_that_share_the_data_alone_take_turns(tmp_path: Path) -> None:
    """Each has a state folder of its own, as replicas of read-only data may."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "file").write_bytes(BODY)
    states = [State(tmp_path / name, data) for name in ("one", "two")]
    with closing(Digests(states[0])) as digests, closing(Digests(states[1])) as other:
        digests.start(wanted(long_file(tmp_path), kind="sha256"))
        until(lambda: states[0].is_locked(State.MAIN))
        waiting = other.start(wanted(tmp_path / "file"))
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        digests.close()
        assert waiting.result(30) == true_hash(tmp_path / "file")


def test_what_another_process_wants_more_comes_first(tmp_path: Path, state: State) -> None:
    """Each of two processes has something to compute, when a third is done."""
    names = ("small 1", "small 2", "waited for")
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    order: list[str] = []
    with closing(Digests(State(state.folder))) as one, closing(Digests(State(state.folder))) as two:
        with held(state):
            for name in names:
                process, urgent = (two, True) if name == "waited for" else (one, False)
                future = process.start(wanted(tmp_path / name), urgent=urgent)
                future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
            time.sleep(0.5)  # each waits for its turn
        until(lambda: len(order) == 3)
    assert order[0] == "waited for"


def test_a_file_system_without_locks_stops_nothing(
    tmp_path: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("mirror.derived.state.fcntl.flock", refuse)
    (tmp_path / "file").write_bytes(BODY)
    found = digests.start(wanted(tmp_path / "file")).result(30)
    assert found == true_hash(tmp_path / "file")


def finished(
    digests: Digests, asked: Mapping[str, tuple[DigestJob, bool]], state: State
) -> list[str]:
    """Names in the order in which their digests, all asked for before the first, were done."""
    order: list[str] = []
    with held(state):
        for name, (one, urgent) in asked.items():
            future = digests.start(one, urgent=urgent)
            future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    until(lambda: len(order) == len(asked))
    return order


def test_files_that_xet_alone_can_serve_come_first(
    tmp_path: Path, state: State, digests: Digests
) -> None:
    for name in "abcd":
        (tmp_path / name).write_bytes(BODY)
    asked = {
        "large": (wanted(tmp_path / "a", HTTP_LIMIT), False),
        "small": (wanted(tmp_path / "b"), False),
        "huge": (wanted(tmp_path / "c", HTTP_LIMIT + 1), False),
        "an etag": (wanted(tmp_path / "d", kind="sha256"), False),
    }
    assert finished(digests, asked, state) == ["an etag", "huge", "large", "small"]


def test_what_somebody_waits_for_comes_before_all(
    tmp_path: Path, state: State, digests: Digests
) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(BODY)
    huge, waited = wanted(tmp_path / "a", HTTP_LIMIT + 1), wanted(tmp_path / "b")
    asked = {"huge": (huge, False), "waited": (waited, True)}
    assert finished(digests, asked, state) == ["waited", "huge"]


def test_work_under_way_ends_with_the_mirror(tmp_path: Path, state: State) -> None:
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 10**12)  # of holes: it takes many minutes
    digests = Digests(state)
    future = digests.start(wanted(tmp_path / "file"))
    until(lambda: is_held(state))
    digests.close()
    with pytest.raises(BlobUnreadableError):
        future.result(0)


# A hash that the real hub told the client, and nobody us


def find(source: HfCache, hashes: XetHashes, xet_hash: str, last: int = 0) -> StoredFile:
    return hashes.find(source.snapshot(MODEL, COMMIT), xet_hash, last)


def test_the_only_file_that_can_be_meant_is_served_at_once(
    hub: Path, managed: HfCache, state: State, hashes: XetHashes, serve: Serve
) -> None:
    blob = blob_of(folders.make_managed(hub, Content({"model.bin": BODY, "config.json": b"{}"})))
    client = serve(managed, xet_hashes=hashes)
    with held(state):
        assert read(client, ask(client, true_hash(blob)).json(), len(BODY)) == BODY


def test_the_only_file_that_is_long_enough_is_served_at_once(
    hub: Path, managed: HfCache, state: State, hashes: XetHashes, serve: Serve
) -> None:
    blob = blob_of(folders.make_managed(hub, Content(TWO)))
    client = serve(managed, xet_hashes=hashes)
    with held(state):
        body = ask(client, true_hash(blob), len(OTHER)).json()
        assert read(client, body, len(OTHER) + 1) == BODY[: len(OTHER) + 1]


def test_the_only_file_of_which_upstream_told_no_hash_is_served_at_once(
    hub: Path, managed: HfCache, state: State, hashes: XetHashes
) -> None:
    content = Content(TWO)
    other = replace(content.entries["other.bin"], xet_hash=64 * "d")
    folders.make_managed(hub, content, files={**content.entries, "other.bin": other})
    with held(state):
        assert find(managed, hashes, NOBODYS).file.path == "model.bin"


@pytest.mark.parametrize("path", TWO)
def test_a_client_waits_where_several_files_may_be_meant(
    hub: Path, managed: HfCache, state: State, hashes: XetHashes, serve: Serve, path: str
) -> None:
    xet_hash = true_hash(blob_of(folders.make_managed(hub, Content(TWO)), path))
    with held(state), pytest.raises(DigestPendingError):
        find(managed, hashes, xet_hash)
    client = serve(managed, xet_hashes=hashes)
    assert read(client, ask(client, xet_hash).json(), len(TWO[path])) == TWO[path]


@pytest.mark.parametrize(("path", "last"), [(path, len(body) - 1) for path, body in TWO.items()])
def test_the_file_of_the_size_that_is_asked_for_is_read_first(
    hub: Path, managed: HfCache, state: State, hashes: XetHashes, digests: Digests,
    path: str, last: int,
) -> None:  # fmt: skip
    bodies = TWO | {"third.bin": BODY + b"more", "z.bin": BODY + b"still more"}
    folder = folders.make_managed(hub, Content(bodies))
    order: list[str] = []
    with held(state):
        with pytest.raises(DigestPendingError):
            find(managed, hashes, true_hash(blob_of(folder, path)), last)
        for name in bodies:
            future = digests.start(wanted(blob_of(folder, name)))
            future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    until(lambda: bool(order))
    assert order[0] == path


def test_nothing_is_guessed_where_a_part_was_left_out(
    hub: Path, managed: HfCache, state: State, hashes: XetHashes, digests: Digests
) -> None:
    """The hash may be that of a file which the pull left out."""
    content = Content({"model.bin": BODY})
    left_out = {"other.bin": folders.entry("other.bin", OTHER)}
    blob = blob_of(folders.make_managed(hub, content, left_out=left_out))
    with held(state), pytest.raises(DigestPendingError):
        find(managed, hashes, NOBODYS)
    digests.start(wanted(blob)).result(30)
    assert find(managed, hashes, true_hash(blob)).file.path == "model.bin"
    with pytest.raises(XetHashNotFoundError):
        find(managed, hashes, NOBODYS)


def test_nothing_is_guessed_where_the_tree_is_not_known(
    hub: Path, foreign: HfCache, state: State, hashes: XetHashes
) -> None:
    content = Content({"model.bin": BODY})
    folder = folders.make_classic(hub, content)
    with held(state):
        with pytest.raises(DigestPendingError):
            find(foreign, hashes, NOBODYS)
        folders.add_tree(folder, content)
        assert find(foreign, hashes, NOBODYS).file.path == "model.bin"


def test_a_hash_of_no_file_is_refused_once_all_are_known(
    hub: Path, managed: HfCache, hashes: XetHashes, serve: Serve
) -> None:
    """It is not that of the file which happens to be read last."""
    folders.make_managed(hub, Content(TWO))
    assert ask(serve(managed, xet_hashes=hashes), NOBODYS).status_code == 404


def test_a_file_that_cannot_be_read_is_no_absence(
    hub: Path, digests: Digests, hashes: XetHashes
) -> None:
    """Clients ask again after a 503, and never after a 404."""
    folder = folders.make_managed(hub, Content(TWO))
    source = HfCache(hub, digests, managed=True, ttl_s=60)
    source.snapshot(MODEL, COMMIT)
    for path in TWO:
        os.truncate(blob_of(folder, path), 5)
    with pytest.raises(UnavailableError):
        find(source, hashes, NOBODYS)


def make_told(hub: Path, content: Content) -> dict[str, str]:
    """A managed commit whose record tells hashes, which it gives by path."""
    xet_hashes = {path: file.etag[::-1] for path, file in content.entries.items()}
    files = {
        path: replace(file, xet_hash=xet_hashes[path]) for path, file in content.entries.items()
    }
    folders.make_managed(hub, content, files=files)
    return xet_hashes


def test_a_hash_of_another_repository_or_commit(
    hub: Path, managed: HfCache, hashes: XetHashes, serve: Serve
) -> None:
    make_told(hub, Content({"model.bin": BODY}))
    older = make_told(hub, Content({"model.bin": BODY[1:]}, OLDER))
    others = make_told(hub, Content({"model.bin": OTHER}, repo=Repo.parse("Org/Other")))
    client = serve(managed, xet_hashes=hashes)
    with nothing_computed():
        for xet_hash in (NOBODYS, older["model.bin"], others["model.bin"]):
            assert ask(client, xet_hash).status_code == 404


def test_a_hash_of_a_file_that_git_keeps_whole(
    hub: Path, managed: HfCache, hashes: XetHashes
) -> None:
    folders.make_managed(hub, Content({"config.json": b"{}"}))
    with nothing_computed(), pytest.raises(XetHashNotFoundError):
        find(managed, hashes, NOBODYS)
