"""Copies the data folder with rsync. Readers never see a part of a revision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError
from mirror.core.repo import Repo
from mirror.store.cache import Cache
from mirror.store.progress import CopyDone, FileAdvanced, FileChange, Message, Planned
from mirror.transfer.destination import Destination
from mirror.transfer.repositories import chosen_folders
from mirror.transfer.rsync import RsyncError, Stats, rsync

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.store.progress import Report

# The files that lead a reader to the payload. Each group may arrive only after the groups before.
_REFS = ("/hub/*/refs", "/git/*/*/*/refs", "/git/*/*/*/packed-refs", "/git/*/*/*/HEAD",
         "/bentoml/models/*/latest")  # fmt: skip
_POINTERS = (("/hub/*/snapshots", "/hub/*/trees"), ("/hub/*/hubmirror", "/openllm"), _REFS)
_PAYLOAD = ("/hub/*/blobs", "/hub/*/snapshots", "/hub/*/trees", "/hub/*/.no_exist")
_LOCAL = ("/.hubmirror", "/hub/.hubmirror", "/hub/.locks", "/lost+found", ".rsync-partial")
_FLAGS = (
    "--archive", "--hard-links", "--copy-dirlinks", "--partial-dir=.rsync-partial",
    "--omit-dir-times",
)  # fmt: skip
_VISIBLE_PASSES = ("refs", "removals of revisions", "removals of files")
"""The passes that change what readers see: they run after the records."""

_PUSH = Repo.parse("push")
"""The repository in progress events: rsync copies files of all repositories."""

_CHANGE = re.compile(r"([<>ch.*]\S+) +(\d+) (.+)")
_FULL = "No space left on device"


def push(
    data: Path,
    destination: str,
    repos: Sequence[Repo] = (),
    *,
    delete: bool = False,
    dry_run: bool = False,
    options: tuple[str, ...] = (),
    report: Report,
) -> None:
    """Copy `data`, or only `repos` of its hub/, to `HOST:/path` or a folder. An interrupted push
    continues at the next call.

    The destination must be empty, or a data folder. `delete` removes files at the destination that
    `data` does not have, in two last passes: first the refs, records and links, then the rest; with
    `repos`, only files of these repositories. `options` are passed to rsync. Raises CarryError.
    """
    target = Destination.parse(destination)
    _check(data, target, delete=delete)
    only = _only(data, repos, report)
    target.prepare(options, dry_run=dry_run)
    copy = _Copy(data, target, options, report)
    local = [*_excludes(_LOCAL), *only]
    planned = copy.plan([*local, *(["--delete"] if delete else [])], show=dry_run)
    if dry_run:
        report(CopyDone(str(target), planned.files, planned.size, planned.deleted, is_dry_run=True))
        return
    report(Planned(planned.files, planned.size))
    total = Stats()
    for name, filters in _passes(local, delete=delete):
        report(Message("info", f"rsync: {name}"))
        done = copy.run(name, filters)
        total.files += done.files
        total.size += done.size
        total.deleted += done.deleted
    report(CopyDone(str(target), total.files, total.size, total.deleted))


class _Copy:
    """Runs of rsync from one data folder to one destination."""

    def __init__(
        self, data: Path, target: Destination, options: Sequence[str], report: Report
    ) -> None:
        self._ends = [*options, f"{data.absolute()}/", str(target)]
        self._target = target
        self._report = report

    def plan(self, filters: Sequence[str], *, show: bool) -> Stats:
        """What a run would copy and delete; `show` reports each file."""
        words = [*_FLAGS, *filters, "--dry-run", "--out-format=%i %l %n", *self._ends]
        try:
            return rsync(words, printed=self._show if show else lambda _: None)
        except RsyncError as exc:
            raise CarryError(f"rsync failed: {exc}. Nothing was copied.") from exc

    def run(self, name: str, filters: Sequence[str]) -> Stats:
        try:
            stats = rsync(
                [*_FLAGS, *filters, *self._ends],
                advanced=lambda count: self._report(FileAdvanced(_PUSH, name, count)),
                printed=lambda line: self._report(Message("info", line)),
            )
        except RsyncError as exc:
            unchanged = (
                "" if name in _VISIBLE_PASSES else "The destination serves the same as before. "
            )
            full = f"Free space on the disk of {self._target}. " if _FULL in str(exc) else ""
            raise CarryError(
                f"rsync failed in the pass {name!r}: {exc}. {unchanged}{full}Run the same command "
                "again to continue."
            ) from exc
        if stats.has_vanished:
            text = "Some files vanished during the copy: another process changes the data folder."
            self._report(Message("warning", text))
        return stats

    def _show(self, line: str) -> None:
        if not (found := _CHANGE.fullmatch(line)):
            return
        kind, size, path = found[1], int(found[2]), found[3]
        if kind == "*deleting":
            self._report(FileChange("delete", path, size))
        elif kind[1:2] in ("f", "L") and kind[0] != ".":
            self._report(FileChange("copy", path, size))


def _check(data: Path, target: Destination, *, delete: bool) -> None:
    """Raises CarryError for arguments that are wrong or dangerous."""
    if not data.is_dir():
        raise CarryError(f"The data folder {data} does not exist. Name another with --data.")
    if not target.host and Path(target.path).resolve().is_relative_to(data.resolve()):
        raise CarryError(f"{target} is inside the data folder. Name a destination outside of it.")
    if delete and not any((data / "hub").glob("*--*")):
        raise CarryError(
            f"{data} has no repository, so --delete would delete all files at the destination. "
            "Check that the disk of the data folder is mounted."
        )


def _excludes(patterns: Sequence[str]) -> list[str]:
    return [f"--exclude={pattern}" for pattern in patterns]


def _only(data: Path, repos: Sequence[Repo], report: Report) -> list[str]:
    """The filters that leave only these repositories; none means all files. rsync does not delete
    files that are excluded."""
    if not repos:
        return []
    folders = chosen_folders(Cache.of(data / "hub"), repos, report)
    names = [f"--include=/hub/{folder.path.name}/" for folder in folders]
    return ["--include=/hub/", *names, *_excludes(("/*", "/hub/*"))]


def _passes(local: list[str], *, delete: bool) -> Iterator[tuple[str, list[str]]]:
    """The name and the rsync filters of each pass, in order."""
    for number, name in enumerate(("files", "snapshots", "records")):
        later = [pattern for group in _POINTERS[number:] for pattern in group]
        yield name, _excludes(later) + local
    # --checksum: a ref that moved within a second has the same size and mtime.
    refs = [f"--include={pattern}{end}" for pattern in _REFS for end in ("", "/***")]
    yield (
        _VISIBLE_PASSES[0],
        ["--checksum", "--prune-empty-dirs", *local, "--include=*/", *refs, "--exclude=*"],
    )
    if delete:
        yield _VISIBLE_PASSES[1], [*_excludes(_PAYLOAD), *local, "--delete"]
        yield _VISIBLE_PASSES[2], [*local, "--delete"]
