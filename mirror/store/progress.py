"""What happens while a cache is filled or checked, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.core.repo import Repo


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; sizes in bytes."""


@dataclass(frozen=True, slots=True)
class Planned(Event):
    """How much work lies ahead, in all."""

    files: int
    size: int


@dataclass(frozen=True, slots=True)
class FileBegan(Event):
    repo: Repo
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileAdvanced(Event):
    """`count` more bytes; negative where they must come again."""

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
    """`outcome` in a few words: `pulled`, `up to date`, …"""

    repo: Repo
    commit_hash: str
    outcome: str
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Message(Event):
    """Something that the operator should know; `level` is `info`, `warning` or `error`."""

    level: str
    text: str


Report = Callable[[Event], None]
