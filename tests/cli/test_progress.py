"""Progress output: bars on a terminal, lines otherwise, and JSON with `--json`."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import progress as show
from mirror.core.tree import lfs_file
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Message, Planned, RevisionDone
from mirror.store.publish import publish
from tests.carried import blob, flip, hubmirror, put_grown, start
from tests.filling import Filling
from tests.folders import (
    COMMIT,
    MODEL,
    Content,
    make_managed,
    make_record,
    repo_dir,
    write,
)
from tests.hub import HubSimulator
from tests.waiting import until

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_EVENTS = [
    Planned(2, 3_000_000),
    FileBegan(MODEL, "a.bin", 2_000_000),
    FileAdvanced(MODEL, "a.bin", 1_500_000),
    Message("warning", "a.bin is slow [and] has brackets"),
    FileDone(MODEL, "a.bin", 2_000_000),
    Message("info", "nearly done"),
    RevisionDone(MODEL, COMMIT, "pulled", 2, 3_000_000),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    put_grown(tmp_path / "data", 0)
    return tmp_path / "data"


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show.showing(as_json=False) as report:
        for event in _EVENTS:
            report(event)
    result = capsys.readouterr()
    assert result.out == ""
    assert result.err.splitlines() == [
        "2 files, 3.0 MB",
        "warning: a.bin is slow [and] has brackets",
        "nearly done",
        f"Org/Model at {COMMIT[:12]}: pulled (2 files, 3.0 MB)",
    ]


def test_a_regular_line_shows_the_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "_LINE_INTERVAL_S", 0.0)
    with show.showing(as_json=False) as report:
        for event in _EVENTS[:3]:
            report(event)
    (_, line) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"1\.5 MB of 3\.0 MB, \S+ .?B/s, \d+ s left", line)


def test_json_for_programs(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with show.showing(as_json=True) as report:
        for event in _EVENTS:
            report(event)
    result = capsysbinary.readouterr()
    assert result.err == b""
    rows = _lines(result.out.decode())
    assert [row.pop("event") for row in rows] == [
        "Planned",
        "FileBegan",
        "Message",
        "FileDone",
        "Message",
        "RevisionDone",
    ]
    assert rows[1] == {"repo": "Org/Model", "path": "a.bin", "size": 2_000_000}
    assert rows[-1] == {
        "repo": "Org/Model",
        "commit_hash": COMMIT,
        "outcome": "pulled",
        "files": 2,
        "size": 3_000_000,
    }


@pytest.mark.parametrize(
    "words",
    [
        ("verify",),
        ("bundle", "create", "disk"),
        ("adopt", "--source", "hf-cache:other"),
        ("ls",),
    ],
    ids=lambda words: words[0],
)
def test_every_line_of_a_command_is_json(data: Path, words: tuple[str, ...]) -> None:
    (data.parent / "other").mkdir()
    if words[0] == "verify":
        flip(blob(data / "hub", put_grown(data, 0), "model-0.safetensors"))
    result = hubmirror(data, *words, "--json", status=words[0] == "verify")
    assert _lines(result.stdout)


@dataclass
class Terminal:
    """The terminal output of a command, and its exit status."""

    output: str
    status: int


def _on_a_terminal(
    data: Path,
    *words: str,
    meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None,
    typed: bytes = b"",
) -> Terminal:
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    process = start(data, *words, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    output: list[bytes] = []
    reading = threading.Thread(target=_read, args=(ours, output))
    reading.start()
    try:
        if meanwhile:
            meanwhile(process)
        status = process.wait(60)
    finally:
        process.kill()
        reading.join()
        os.close(ours)
    return Terminal(b"".join(output).decode(), status)


def _read(terminal: int, output: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(terminal, 65536):
            output.append(chunk)


def test_bars_on_a_terminal_leave_a_clean_end(data: Path) -> None:
    body = bytes(80_000_000)
    content = Content({"zeros.bin": body}, COMMIT)
    make_managed(data / "hub", content)
    shown = _on_a_terminal(data, "verify")
    assert shown.status == 0
    assert "9 files" in shown.output
    assert "zeros.bin" in shown.output
    assert "81.2 MB" in shown.output or "81.2/81.2 MB" in shown.output
    assert shown.output.count(_HIDE) == shown.output.count(_SHOW) == 1
    end = shown.output.rpartition(_SHOW)[2]
    assert _plain(end).strip() == "No problems found."


def test_the_operator_confirms_needed_repositories(
    simulator: HubSimulator, filling: Filling
) -> None:
    config = b'{"auto_map": {"AutoModel": "org/code--modeling.Model"}}'
    simulator.repo("org/model").commit({"config.json": config})
    simulator.repo("org/code").commit({"modeling.py": b"pass"})
    filling.data.mkdir(exist_ok=True)
    words = ("pull", "org/model", "--upstream", filling.url)
    shown = _on_a_terminal(filling.data, *words, typed=b"y\n")
    assert shown.status == 0
    assert "\nPull it too? [y/N]: " in _plain(shown.output).replace("\r", "")
    assert filling.shown(repo="org/code") == {"modeling.py": b"pass"}


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_an_interrupted_command_ends_soon(tmp_path: Path) -> None:
    """It does not wait for the end of the file, which would take hours."""
    data = tmp_path / "data"
    endless = lfs_file("endless.bin", 8 * 10**12, 64 * "a")
    blob = repo_dir(data / "hub") / "blobs" / endless.etag
    write(blob, b"")
    os.truncate(blob, endless.size)
    publish(data / "hub", make_record(Content({}), files={endless.path: endless}))

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        until(lambda: _is_reading(process, data))
        process.send_signal(signal.SIGINT)

    shown = _on_a_terminal(data, "verify", meanwhile=interrupt)
    assert shown.status != 0
    assert shown.output.count(_HIDE) == shown.output.count(_SHOW) == 1
    assert "Traceback" not in shown.output


def _is_reading(process: subprocess.Popen[bytes], data: Path) -> bool:
    """Whether the command has a blob open."""
    with contextlib.suppress(OSError):
        opened = [path.readlink() for path in Path(f"/proc/{process.pid}/fd").iterdir()]
        return any("/blobs/" in str(name) for name in opened)
    return False
