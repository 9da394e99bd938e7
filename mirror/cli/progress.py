"""Shows progress events: bars on a terminal, lines otherwise, and JSON with `--json`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mirror.core.units import human, several
from mirror.store.progress import (
    CopyDone,
    Event,
    FileAdvanced,
    FileBegan,
    FileChange,
    FileDone,
    Message,
    Planned,
    Report,
    RevisionDone,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIN_BAR_SIZE = 32 * 1024 * 1024  # smaller files get no progress bar
_LINE_INTERVAL_S = 10.0
_STYLES = {"warning": "yellow", "error": "red"}


@contextlib.contextmanager
def showing(*, as_json: bool) -> Iterator[Report]:
    """A callback that shows events as JSON, as bars if stderr is a terminal, or as lines."""
    if as_json:
        yield _print_json
    elif sys.stderr.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _Lines()


def _print_json(event: Event) -> None:
    if isinstance(event, FileAdvanced):
        return
    fields: dict[str, Any] = {
        field.name: getattr(event, field.name) for field in dataclasses.fields(event)
    }
    fields = {name: str(value) if name == "repo" else value for name, value in fields.items()}
    click.echo(orjson.dumps({"event": type(event).__name__, **fields}))


def _line(event: RevisionDone | FileChange | CopyDone) -> str:
    match event:
        case RevisionDone():
            return (
                f"{event.repo} at {event.commit_hash[:12]}: {event.outcome} "
                f"({several(event.files, 'file')}, {human(event.size)})"
            )
        case FileChange():
            size = human(event.size) if event.action == "copy" else ""
            return f"{event.action:<6}  {size:>10}  {event.path}"
    counts = [f"{several(event.files, 'file')}, {human(event.size)}"] if event.files else []
    counts += [f"{event.deleted} deleted"] if event.deleted else []
    if not counts:
        return f"{event.destination} is up to date."
    verb = "Would copy" if event.is_dry_run else "Copied"
    return f"{verb} to {event.destination}: {'; '.join(counts)}."


class _Lines:
    """Prints a line for each revision and message, and regularly a line with the total progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._size = self._received = 0
        self._started_at = self._printed_at = time.monotonic()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Planned():
                    self._size, self._received = event.size, 0
                    self._started_at = self._printed_at = time.monotonic()
                    click.echo(f"{several(event.files, 'file')}, {human(event.size)}", err=True)
                case RevisionDone() | FileChange() | CopyDone():
                    click.echo(_line(event), err=True)
                case Message():
                    prefix = "" if event.level == "info" else f"{event.level}: "
                    click.echo(f"{prefix}{event.text}", err=True)
                case FileAdvanced():
                    self._received += event.count
                    if time.monotonic() - self._printed_at > _LINE_INTERVAL_S:
                        self._print_total()

    def _print_total(self) -> None:
        self._printed_at = time.monotonic()
        rate = self._received / (self._printed_at - self._started_at)
        left_s = (self._size - self._received) / rate if rate > 0 else 0
        click.echo(
            f"{human(self._received)} of {human(self._size)}, {human(rate)}/s, {left_s:.0f} s left",
            err=True,
        )


class _Bars:
    """Shows a progress bar for the total, and one for each large file in progress."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._total: TaskID | None = None
        self._files: dict[tuple[str, str], TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Planned():
                    self._plan(event)
                case FileBegan() if event.size > _MIN_BAR_SIZE:
                    name = f"  {event.path[-40:]}"
                    task = self._bars.add_task(name, total=event.size)
                    self._files[str(event.repo), event.path] = task
                case FileAdvanced():
                    self._advance(event)
                case FileDone():
                    self._end(str(event.repo), event.path)
                case RevisionDone() | FileChange() | CopyDone():
                    self._console.print(_line(event), markup=False, soft_wrap=True)
                case Message():
                    self._console.print(event.text, style=_STYLES.get(event.level), markup=False)

    def _plan(self, event: Planned) -> None:
        if self._total is not None:
            self._bars.remove_task(self._total)
        self._total = self._bars.add_task(several(event.files, "file"), total=event.size)

    def _end(self, repo: str, path: str) -> None:
        task = self._files.pop((repo, path), None)
        if task is not None:
            self._bars.remove_task(task)

    def _advance(self, event: FileAdvanced) -> None:
        if self._total is not None:
            self._bars.advance(self._total, event.count)
        task = self._files.get((str(event.repo), event.path))
        if task is not None:
            self._bars.advance(task, event.count)
