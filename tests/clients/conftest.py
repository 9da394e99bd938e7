"""A mirror that clients are run against, and the table of what they could do."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.core.source import Source
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.derived.xet_hashes import XetHashes
from mirror.sources.hf_cache import HfCache
from mirror.store.demo import write_demo
from mirror.web.access import Signer
from mirror.web.observe import AccessLog, Logs
from mirror.web.proxy import ProxySettings
from tests import folders
from tests.clients.clients import Cell, Run
from tests.clients.proxies import Trap, run_trap
from tests.clients.table import Table
from tests.conftest import serving
from tests.folders import COMMIT, OLDER, Content

TOKEN = "hf_secret"
MIN_SIZE = 8_000_000
WHOLE = Content(folders.FILES | {"big.bin": Random(0).randbytes(22_000_000)})
PARTIAL = Content(
    {
        "config.json": b'{"partial": true}',
        "dir with space/\u00fcn\u00ef \u00e7\u00f8d\u00e9.txt": b"odd name\n",
        "empty.txt": b"",
        "model.safetensors": WHOLE.files["big.bin"],
    },
    repo=Repo.parse("Org/Partial"),
)
OLD_FILES = {"config.json": b'{"older": true}'}
ROWS = [{"text": f"row {index}", "index": index} for index in range(100)]


def data(rows: list[dict[str, object]], commit_hash: str) -> Content:
    """A dataset of lines of JSON."""
    body = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    files = {"README.md": b"---\nlicense: mit\n---\n", "data/train.jsonl": body}
    return Content(files, commit_hash, Repo.parse("datasets/Org/Data"))


@dataclass(frozen=True)
class Mirror:
    """A server, open and with a token, of a managed and of a foreign cache."""

    url: str
    locked_url: str
    managed: Path
    log: io.StringIO


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """Org/Model is managed, Org/Partial is foreign and without a tree: each with a tag and a pull
    request. Org/Lost is like Org/Partial, without the blob of its weights.
    hubmirror/demo is the demo model. Large files are offered by Xet."""
    folder = tmp_path_factory.mktemp("mirror")
    managed, foreign, state = folder / "managed", folder / "foreign", State(folder / "state")
    folders.make_managed(managed, WHOLE)
    folders.make_managed(managed, Content(OLD_FILES, OLDER), refs=("refs/tags/v1.0", "refs/pr/1"))
    folders.make_managed(managed, data(ROWS, COMMIT))
    folders.make_managed(managed, data(ROWS[:1], OLDER), refs=("refs/pr/1",))
    write_demo(managed)
    folders.make_classic(foreign, PARTIAL)
    older = Content(OLD_FILES, OLDER, PARTIAL.repo)
    folders.write(folders.make_classic(foreign, older, "refs/pr/1") / "refs/v1.0", OLDER.encode())
    with closing(Digests(state)) as digests:
        lost = Content(PARTIAL.files, repo=Repo.parse("Org/Lost"))
        folder = folders.make_classic(foreign, lost)
        (folder / "blobs" / lost.entries["model.safetensors"].etag).unlink()
        sources: list[Source] = [
            HfCache(managed, digests, managed=True),
            HfCache(foreign, digests, managed=False),
        ]
        access_log = AccessLog(log := io.StringIO(), "text")
        told = XetHashes(digests, MIN_SIZE)
        proxy = ProxySettings(signer=Signer(TOKEN))
        with (
            serving(state, *sources, logs=Logs(access_log), xet_hashes=told) as client,
            serving(state, *sources, proxy=proxy, xet_hashes=told) as locked,
        ):
            wait_for_xet(client, "Org/Model", "big.bin")
            wait_for_xet(client, "Org/Partial", "model.safetensors")
            yield Mirror(url_of(client), url_of(locked), managed, log)


def url_of(client: httpx2.Client) -> str:
    return str(client.base_url).rstrip("/")


@contextmanager
def offering(
    mirror: Mirror, hub: Path, state: State, *,
    managed: bool = True, signer: Signer | None = None, advertise: bool = True,
) -> Iterator[str]:  # fmt: skip
    """Another server, of one cache, which offers files of every size by Xet. It shares the log."""
    with (
        closing(Digests(state)) as digests,
        serving(
            state,
            HfCache(hub, digests, managed=managed),
            logs=Logs(AccessLog(mirror.log, "text")),
            proxy=ProxySettings(signer=signer or Signer()),
            xet_hashes=XetHashes(digests, advertise=advertise),
        ) as client,
    ):
        yield url_of(client)


def wait_for_xet(client: httpx2.Client, repo_id: str, path: str) -> None:
    """Until the file's hash has been computed, and it is offered by Xet."""
    deadline = time.monotonic() + 60
    while "x-xet-hash" not in client.head(f"/{repo_id}/resolve/main/{path}").headers:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="session")
def huge(mirror: Mirror) -> Content:
    """Large enough for hf_transfer, which leaves files below 50 MB to huggingface_hub."""
    content = Content({"huge.bin": Random(1).randbytes(60_000_000)}, repo=Repo.parse("Org/Huge"))
    folders.make_managed(mirror.managed, content)
    with httpx2.Client(base_url=mirror.url) as client:
        wait_for_xet(client, "Org/Huge", "huge.bin")
    return content


@pytest.fixture(scope="session")
def listening_trap() -> Iterator[Trap]:
    with run_trap() as trap:
        yield trap


@pytest.fixture
def trap(listening_trap: Trap) -> Trap:
    listening_trap.asked.clear()
    return listening_trap


@pytest.fixture
def run(cell: Cell, mirror: Mirror, trap: Trap, tmp_path: Path) -> Iterator[Run]:
    """Runs scripts of the client of this test. A failure shows what the server logged."""
    home, began = tmp_path / "home", len(mirror.log.getvalue())
    home.mkdir()
    run = Run(cell.client, mirror.url, home, trap, lambda: mirror.log.getvalue()[began:])
    yield run
    sys.stderr.write(run.log())
    shutil.rmtree(home)  # pytest keeps the folders of three runs, and weights are large


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the reports of a test tell its cell of the table, from another process too."""
    cell = item.callspec.params.get("cell") if hasattr(item, "callspec") else None
    if cell is not None:
        item.user_properties.append(("cell", [cell.client.name, cell.capability]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of what ran; where that is all, write it into docs/clients.md."""
    table = Table()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            properties = dict(report.user_properties)
            if "note" in properties:
                terminalreporter.write_line(properties["note"])
            if "cell" in properties:
                client, capability = properties["cell"]
                table.add(client, capability, outcome)
    if not table.cells:
        return
    terminalreporter.write_sep("=", "clients")
    terminalreporter.write_line(table.render())
    if table.is_whole():
        table.write()
