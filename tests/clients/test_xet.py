"""Clients with hf_xet, which fetch what the mirror offers by Xet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from urllib.parse import unquote

import hf_xet
import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.derived.state import State
from mirror.store.publish import publish
from mirror.web.access import Signer
from mirror.web.xorb import BLOCK, CHUNK
from tests import folders
from tests.clients.clients import HUBS_WITH_XET, Run, each
from tests.clients.conftest import TOKEN, WHOLE, Mirror, offering
from tests.clients.proxies import run_cut, run_slow
from tests.clients.test_clients import digests, sha256
from tests.folders import COMMIT, Content
from tests.servers import run_command

pytestmark = pytest.mark.timeout(900)

OLD_XET, *NEW_XET = HUBS_WITH_XET
NEWEST = NEW_XET[-1]
SIZES = {
    "empty.bin": 0, "one.bin": 1,
    "chunk-1.bin": CHUNK - 1, "chunk.bin": CHUNK, "chunk+1.bin": CHUNK + 1,
    "block-1.bin": BLOCK - 1, "block.bin": BLOCK, "block+1.bin": BLOCK + 1,
    "last chunk of one byte.bin": BLOCK + 5 * CHUNK + 1,
}  # fmt: skip
EDGES = Content(
    {path: Random(size).randbytes(size) for path, size in SIZES.items()},
    repo=Repo.parse("Org/Edges"),
)
TWIN = replace(EDGES, repo=Repo.parse("datasets/Other/Twin"))
WEIGHTS = "model.safetensors"
# So that signatures of a few seconds expire before they are used, but not before a new try.
ONE_AT_A_TIME = {
    "HF_XET_FIXED_DOWNLOAD_CONCURRENCY": "1", "HF_XET_NUM_CONCURRENT_RANGE_GETS": "1",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "100ms",
}  # fmt: skip
LONG = Content({WEIGHTS: Random(3).randbytes(40_000_000)}, repo=Repo.parse("Org/Long"))


def make_told(hub: Path, content: Content) -> None:
    """A managed repository whose record tells the xet hashes that the real hub would tell."""
    blobs = folders.make_managed(hub, content) / "blobs"
    told = {}
    for path, file in content.entries.items():
        (hashed,) = hf_xet.hash_files([str(blobs / file.etag)])
        told[path] = replace(file, xet_hash=hashed.hash if file.lfs_sha256 else None)
    refs = ("refs/heads/main", "refs/pr/1")
    publish(hub, folders.make_record(content, files=told, refs=refs))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xet")
    for content in (EDGES, TWIN, LONG):
        make_told(folder / "hub", content)
    return folder / "hub"


@pytest.fixture(scope="module")
def url(mirror: Mirror, hub: Path) -> Iterator[str]:
    """A mirror that offers files of every size by Xet; it shares the log of the other."""
    with offering(mirror, hub, State(hub.parent / "state")) as url:
        yield url


def by_xet(log: str) -> set[str]:
    """The files of which blocks were sent, none of which may have been sent plainly too."""
    assert not re.search(r"GET /\S+/resolve/\S+\.(bin|safetensors) ", log)
    return {unquote(path) for path in re.findall(r"/blocks/\w+/\d+/(\S+) 206 ", log)}


def calmly(run: Run) -> dict[str, str]:
    """Threads of 1.x that ask at once whether hf_xet is installed may be told no, and fetch their
    files plainly (`_runtime._get_version`)."""
    return {"MAX_WORKERS": "1"} if run.client.name == "hub-1" else {}


def versions(log: str) -> set[str]:
    """What of the protocol reconstructions were asked by."""
    return set(re.findall(rf"/{COMMIT}/(\S+)/[0-9a-f]{{64}} 200 ", log))


@each("xet", *HUBS_WITH_XET)
def test_large_files_alone_come_by_xet(run: Run) -> None:
    """The mirror has computed their hashes itself."""
    for path in ("big.bin", "model.safetensors"):
        told = run("download", "Org/Model", "main", path)
        assert told["sha256"] == sha256(WHOLE.files[path])
    assert re.findall(r"/blocks/\w+/\d+/(\S+) 206", run.log()) == ["big.bin", "big.bin"]


@each("xet", *HUBS_WITH_XET)
def test_files_of_every_size_arrive(run: Run, url: str) -> None:
    assert run("snapshot", "Org/Edges", endpoint=url, **calmly(run)) == digests(EDGES)
    assert by_xet(run.log()) == EDGES.files.keys() - {"empty.bin"}
    old = run.client == OLD_XET
    assert versions(run.log()) == {"reconstruction" if old else "v2/reconstructions"}


@each("xet", *NEW_XET)
@pytest.mark.clients
def test_files_of_every_size_arrive_by_the_first_version(run: Run, url: str) -> None:
    told = run(
        "snapshot", "Org/Edges", endpoint=url, **calmly(run),
        HF_XET_CLIENT_RECONSTRUCTION_API_VERSION="1",
    )  # fmt: skip
    assert told == digests(EDGES)
    assert by_xet(run.log()) == EDGES.files.keys() - {"empty.bin"}
    assert versions(run.log()) == {"v1/reconstructions"}


@each("xet", *HUBS_WITH_XET)
@pytest.mark.clients
def test_the_same_content_arrives_from_two_repositories(run: Run, url: str) -> None:
    path = "block+1.bin"
    for repo in ("Org/Edges", "datasets/Other/Twin"):
        told = run("download", repo, "main", path, endpoint=url)
        assert told["sha256"] == sha256(EDGES.files[path])
    assert by_xet(run.log()) == {path}


@each("xet", NEWEST)
@pytest.mark.clients
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 0), (CHUNK - 1, CHUNK), (BLOCK - 1, BLOCK), (BLOCK, 2 * BLOCK - 1), (39_999_999,) * 2],
)
def test_a_part_of_a_file_is_streamed(run: Run, url: str, first: int, last: int) -> None:
    told = run("stream", "Org/Long", WEIGHTS, str(first), str(last), endpoint=url)
    assert told["sha256"] == sha256(LONG.files[WEIGHTS][first : last + 1])
    assert by_xet(run.log()) == {WEIGHTS}


@each("xet", NEWEST)
@pytest.mark.clients
def test_a_file_system_gets_a_file_of_a_pull_request(run: Run, url: str) -> None:
    told = run("get", "Org/Long", "refs/pr/1", WEIGHTS, endpoint=url)
    assert told["sha256"] == sha256(LONG.files[WEIGHTS])
    assert by_xet(run.log()) == {WEIGHTS}


@each("xet", *HUBS_WITH_XET)
@pytest.mark.clients
def test_a_broken_connection_does_not_end_a_download(run: Run, url: str) -> None:
    with run_cut(url, after=9_000_000) as cut:
        told = run("download", "Org/Long", "main", WEIGHTS, endpoint=cut.url)
    assert cut.done
    assert told["sha256"] == sha256(LONG.files[WEIGHTS])
    assert by_xet(run.log()) == {WEIGHTS}


@each("xet", *HUBS_WITH_XET)
@pytest.mark.clients
def test_a_signature_may_expire_in_the_middle(
    run: Run, mirror: Mirror, hub: Path, state: State
) -> None:
    with (
        offering(mirror, hub, state, signer=Signer(TOKEN, lifetime=5)) as url,
        run_slow(url, rate=4_000_000) as slow,
    ):
        told = run(
            "download", "Org/Long", "main", WEIGHTS, endpoint=slow.url, **ONE_AT_A_TIME,
            HF_TOKEN=TOKEN,
        )  # fmt: skip
    assert told["sha256"] == sha256(LONG.files[WEIGHTS])
    assert re.search(r"/blocks/.* 403 .*\n(.*\n)*.*reconstruction\S* 200 ", run.log())


@each("xet", *HUBS_WITH_XET)
@pytest.mark.clients
def test_a_mirror_may_be_killed_and_start_again(run: Run, hub: Path) -> None:
    words = ("--source", f"managed:{hub}", "--workers", "1")
    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        first = stack.enter_context(run_command(run.home, *words))
        slow = stack.enter_context(run_slow(first.url, rate=8_000_000))
        told = threads.submit(run, "download", "Org/Long", "main", WEIGHTS, endpoint=slow.url)
        wait_until(lambda: slow.passed > 10_000_000)
        first.process.kill()
        first.process.wait()
        port = first.url.rpartition(":")[2]
        second = stack.enter_context(run_command(run.home, *words, "--port", port))
        assert slow.passed < 40_000_000
        assert told.result()["sha256"] == sha256(LONG.files[WEIGHTS])
        assert re.search(r'sent_bytes_total{route="blocks"} [1-9]', metrics(second.url))


def metrics(url: str) -> str:
    return httpx2.get(f"{url}/metrics").text


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
