"""The operator's commands on folders that a stranger filled: words, and no traceback."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import orjson
import pytest
from click.testing import CliRunner

from mirror.cli import main
from mirror.core.files import remove_tree
from mirror.core.repo import Repo
from mirror.derived.state import State
from mirror.sources.folder import Folder
from tests.attacks.test_side_files import endless, fifo
from tests.conftest import Serve
from tests.folders import (
    COMMIT,
    FILES,
    MODEL,
    Content,
    make_classic,
    make_managed,
    make_plain,
    make_record,
    make_safetensors,
    write,
)
from tests.servers import run_command

GOOD = Content(repo=Repo.parse("Org/Good"))


def damaged_time(folder: Path) -> None:
    body = orjson.loads(make_record(Content()).render())
    text = orjson.dumps(body | {"pulled_at": "9999-12-31T23:59:59-23:59"})
    (folder / "hubmirror" / f"{COMMIT}.json").write_bytes(text)


def deep_tree(folder: Path) -> None:
    path = "/".join(1400 * "d")
    entry = {"size": 1, "blob_id": 40 * "a"}
    body = orjson.dumps({"format_version": 1, "files": {path: entry}})
    write(folder / "trees" / f"{COMMIT}.json", body)


def deep_folders(folder: Path) -> None:
    descriptor = os.open(folder / "snapshots" / COMMIT, os.O_RDONLY)
    for _ in range(1400):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def odd_ref(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder / "refs") + b"/b\xff")).write_text(COMMIT)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a ref that is a FIFO": lambda folder: fifo(folder / "refs" / "main"),
    "a tree that never ends": lambda folder: endless(folder / "trees" / f"{COMMIT}.json"),
    "a record that is a FIFO": lambda folder: fifo(folder / "hubmirror" / f"{COMMIT}.json"),
    "a time that no calendar has": damaged_time,
    "a tree of 1,400 levels": deep_tree,
    "1,400 folders": deep_folders,
    "a ref that is not UTF-8": odd_ref,
    "a blob that is a FIFO": lambda folder: fifo(next((folder / "blobs").iterdir())),
    "a blob that never ends": lambda folder: endless(next((folder / "blobs").iterdir())),
}


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    remove_tree(tmp_path / "data")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["managed", "hf-cache"])
@pytest.mark.parametrize("name", HOSTILE)
def test_commands(data: Path, tmp_path: Path, name: str, kind: str) -> None:
    make_managed(data / "hub", GOOD)
    cache = data / "hub" if kind == "managed" else data / "other"
    (cache / "refs").mkdir(parents=True, exist_ok=True)
    folder = (make_managed if kind == "managed" else make_classic)(cache)
    for part in ("trees", "hubmirror"):
        if kind == "managed" or part == "trees":
            (folder / part).mkdir(exist_ok=True)
    if "record" in name and kind == "hf-cache":
        (folder / "hubmirror").mkdir()
    if "time" in name and kind == "hf-cache":
        (folder / "hubmirror").mkdir()
    HOSTILE[name](folder)
    source = () if kind == "managed" else ("--source", f"hf-cache:{cache}")
    for words in (("ls",), ("verify",), ("gc", "--dry-run"), ("gc",), ("rm", "Org/Model")):
        with contextlib.chdir(tmp_path):
            done = CliRunner().invoke(main, [*words, "--data", str(data), *source])
        assert done.exception is None or isinstance(done.exception, SystemExit), words
        assert done.exit_code in (0, 1), (words, done.output)
        if words == ("ls",):
            assert "Org/Good" in done.output


def test_one_file_that_cannot_be_read(tmp_path: Path) -> None:
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root reads every file, and setpriv (util-linux) is not installed")
    drop = "-dac_override,-dac_read_search"
    under = ("setpriv", "--bounding-set", drop, "--inh-caps", drop) if os.getuid() == 0 else ()
    make_plain(tmp_path / "plain")
    (tmp_path / "plain" / "empty.txt").chmod(0)
    (tmp_path / "data").mkdir()
    source = f"folder:{tmp_path}/plain=Org/Model"
    with run_command(tmp_path, "--workers", "1", "--source", source, under=under) as command:
        url = f"{command.url}/Org/Model/resolve/main"
        assert httpx2.get(f"{url}/config.json").content == FILES["config.json"]
        answer = httpx2.get(f"{url}/empty.txt")
        assert answer.status_code == 503
        assert "empty.txt cannot be served: Permission denied" in answer.json()["error"]
        listed = httpx2.get(f"{command.url}/api/models/Org/Model/tree/main").json()
        assert "empty.txt" in {row["path"] for row in listed}
        assert httpx2.head(f"{url}/empty.txt").status_code == 503


@pytest.mark.parametrize("lie", [[1], "x", {"F32": "many"}, {"F32": -1}, {"F32": [1]}, 5])
def test_headers_of_the_state_folder_are_checked(
    tmp_path: Path, plain: Folder, state: State, serve: Serve, lie: object
) -> None:
    write(tmp_path / "plain" / "model.safetensors", make_safetensors({"a": ("F32", [2, 3])}))
    client = serve(plain)
    path = f"/api/models/{MODEL}"
    assert client.get(path).json()["safetensors"]["total"] == 6
    (fact,) = (state.folder / "headers" / "safetensors").rglob("*.json")
    fact.write_bytes(orjson.dumps(lie))
    assert client.get(path).json()["safetensors"]["total"] == 6
