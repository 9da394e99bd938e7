"""The entries of a Bento store by repository, in memory.

The index is valid until the stamp of `models/`, of a folder in it, of a `latest` or of a model.yaml
changes. At most once in `ttl_s` seconds, one thread compares all stamps; all callers use its
result.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mirror.core.files import is_outage
from mirror.sources.bento_entry import latest, parse_entry, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.core.repo import Repo
    from mirror.core.tree import RepoFile
    from mirror.sources.bento_entry import Entry

_MAX_FILES = 200_000
"""The maximum number of files in the lists in memory, for all entries together: about 60 MB."""

_RECENT_NS = 2_000_000_000
"""If a folder changed within this time before it was read, it can change again and keep the same
mtime."""

_Stamp = tuple[int, int, int] | None


@dataclass(slots=True)
class _Version:
    """One folder of models/<name>. `entry` is None if there is no valid model.yaml."""

    stamp: _Stamp
    entry: Entry | None


@dataclass(slots=True)
class _Name:
    """One folder of models/. `settled` is false if the folder changed just before it was read."""

    stamp: _Stamp
    settled: bool
    latest_stamp: _Stamp
    versions: dict[str, _Version] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Index:
    """All entries by tag, and by the keys of their repositories, without their lists of files."""

    entries: tuple[Entry, ...] = ()
    by_key: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)


class BentoIndex:
    """The index of the store at `home`. All methods can be called from threads."""

    def __init__(self, home: Path, ttl_s: float) -> None:
        self._models = home / "models"
        self._ttl_s = ttl_s
        self._names: dict[str, _Name] = {}
        self._index = Index()
        self._looked_at = float("-inf")
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._files: OrderedDict[Path, tuple[_Stamp, Mapping[str, RepoFile] | None]] = OrderedDict()
        self._file_count = 0
        self._files_lock = threading.Lock()

    def get(self) -> Index:
        """The index. Raises OSError if the store cannot be listed.

        An index that is only a little too old is returned at once, and a background thread
        compares it with the disk.
        """
        age = time.monotonic() - self._looked_at
        if age < self._ttl_s:
            return self._index
        if age < 2 * self._ttl_s and self._refreshing.acquire(blocking=False):
            threading.Thread(target=self._refresh, name="bento-index", daemon=True).start()
        if age < 2 * self._ttl_s:
            return self._index
        with self._lock:
            if time.monotonic() - self._looked_at >= self._ttl_s:
                self._look()
            return self._index

    def of(self, repo: Repo) -> tuple[Entry, ...]:
        """The entries of a repository, by tag. Raises OSError."""
        return self.get().by_key.get(repo.key, ())

    def files(self, entry: Entry) -> Mapping[str, RepoFile] | None:
        """The list of files in the model.yaml of an entry, if there is one."""
        stamp = _stamp(f"{entry.folder}/model.yaml")
        with self._files_lock:
            kept = self._files.get(entry.folder)
            if kept is not None and kept[0] == stamp:
                self._files.move_to_end(entry.folder)
                return kept[1]
        read = parse_entry(entry.folder, read_yaml, "")
        files = read.files if read is not None else None
        self._keep(entry.folder, stamp, files)
        return files

    def _keep(self, folder: Path, stamp: _Stamp, files: Mapping[str, RepoFile] | None) -> None:
        with self._files_lock:
            self._drop(folder)
            self._files[folder] = (stamp, files)
            self._file_count += _weight(files)
            while self._file_count > _MAX_FILES and len(self._files) > 1:
                self._drop(next(iter(self._files)))

    def _drop(self, folder: Path) -> None:
        if kept := self._files.pop(folder, None):
            self._file_count -= _weight(kept[1])

    def _refresh(self) -> None:
        try:
            with self._lock:
                self._look()
        except OSError:
            return  # the next call of `get` looks again, and raises the error
        finally:
            self._refreshing.release()

    def _look(self) -> None:
        """Compare all stamps, and read the entries that changed."""
        now_ns = time.time_ns()
        try:
            listed = sorted(os.listdir(self._models))
        except FileNotFoundError:
            listed = []
        before, changed = self._names, len(listed) != len(self._names)
        names: dict[str, _Name] = {}
        for name in listed:
            names[name], is_new = self._look_at(name, before.get(name), now_ns)
            changed |= is_new
        self._names = names
        if changed:
            self._index = _indexed(names)
            self._forget()
        self._looked_at = time.monotonic()

    def _look_at(self, name: str, kept: _Name | None, now_ns: int) -> tuple[_Name, bool]:
        """The current content of a folder of models/, and whether it has changed."""
        folder = f"{self._models}/{name}"
        stamp, latest_stamp = _stamp(folder), _stamp(f"{folder}/latest")
        if kept is None or kept.stamp != stamp or not kept.settled:
            versions = _listed(folder)
        else:
            versions = list(kept.versions)
        stamps = {version: _stamp(f"{folder}/{version}/model.yaml") for version in versions}
        if (
            kept is not None
            and kept.latest_stamp == latest_stamp
            and {name: version.stamp for name, version in kept.versions.items()} == stamps
        ):
            kept.stamp, kept.settled = stamp, _is_settled(stamp, now_ns)
            return kept, False
        found = _Name(stamp, _is_settled(stamp, now_ns), latest_stamp)
        newest = latest(self._models / name)
        for version, version_stamp in stamps.items():
            old = kept.versions.get(version) if kept is not None else None
            if old is None or old.stamp != version_stamp:
                old = _Version(version_stamp, self._read(name, version, version_stamp))
            elif old.entry is not None:
                old = _Version(version_stamp, replace(old.entry, is_latest=newest == version))
            found.versions[version] = old
        return found, True

    def _read(self, name: str, version: str, stamp: _Stamp) -> Entry | None:
        if stamp is None:
            return None
        folder = self._models / name / version
        entry = parse_entry(folder, read_yaml, latest(folder.parent))
        if entry is None:
            return None
        self._keep(folder, stamp, entry.files)
        return replace(entry, files=None)

    def _forget(self) -> None:
        """Drop the lists of files of entries that do not exist any more."""
        here = {entry.folder for entry in self._index.entries}
        with self._files_lock:
            for folder in [folder for folder in self._files if folder not in here]:
                self._drop(folder)


def _indexed(names: Mapping[str, _Name]) -> Index:
    entries = tuple(
        version.entry
        for name in names.values()
        for version in name.versions.values()
        if version.entry is not None
    )
    by_key: dict[str, tuple[Entry, ...]] = {}
    for entry in entries:
        by_key[entry.repo.key] = (*by_key.get(entry.repo.key, ()), entry)
    return Index(entries, by_key)


def _weight(files: Mapping[str, RepoFile] | None) -> int:
    return 1 + len(files or ())


def _listed(folder: str) -> list[str]:
    """The names in a folder; an empty list if it is not a folder, or the server has no permission
    to list it."""
    try:
        return sorted(os.listdir(folder))
    except OSError as exc:
        if is_outage(exc):
            raise
        return []


def _stamp(path: str) -> _Stamp:
    """A value that changes with a file, or with the names in a folder; None if the path does not
    exist. Raises OSError if the disk fails."""
    try:
        found = os.stat(path)
    except OSError as exc:
        if is_outage(exc):
            raise
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _is_settled(stamp: _Stamp, now_ns: int) -> bool:
    return stamp is None or abs(now_ns - stamp[0]) > _RECENT_NS
