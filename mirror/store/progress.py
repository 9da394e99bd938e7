"""Progress events of pull, verify, adopt, push and bundle, which `mirror.cli.progress` shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.core.repo import Repo


@dataclass(frozen=True, slots=True)
class Event:
    """Base class of progress events. Sizes are in bytes."""


@dataclass(frozen=True, slots=True)
class Planned(Event):
    """The total work of a run, reported before it starts."""

    files: int
    size: int


@dataclass(frozen=True, slots=True)
class FileBegan(Event):
    repo: Repo
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileAdvanced(Event):
    """`count` more bytes were processed. A negative count means that they are read again."""

    repo: Repo
    path: str
    count: int


@dataclass(frozen=True, slots=True)
class FileDone(Event):
    repo: Repo
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class RevisionDone(Event):
    """A revision is finished; `outcome` is a short text such as `pulled` or `up to date`."""

    repo: Repo
    commit_hash: str
    outcome: str
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class FileChange(Event):
    """A file that a dry run of a copy would change; `action` is `copy` or `delete`."""

    action: str
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class CopyDone(Event):
    """A copy to `destination` is finished, or its dry run."""

    destination: str
    files: int
    size: int
    deleted: int
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Message(Event):
    """A message for the operator; `level` is `info`, `warning` or `error`."""

    level: str
    text: str


Report = Callable[[Event], None]
