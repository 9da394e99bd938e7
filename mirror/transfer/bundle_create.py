"""Writes a bundle: the files of a data folder as volumes, with a manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from mirror.core.errors import CarryError
from mirror.core.record import ManifestError
from mirror.core.tree import blob_hash
from mirror.core.units import human
from mirror.derived.state import sync_folder, write_atomically
from mirror.store.cache import Cache
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Message, Planned
from mirror.store.verify_digest import sha256_of
from mirror.transfer.bundle_manifest import (
    MANIFEST,
    VOLUMES,
    VOLUMES_REPO,
    Item,
    Manifest,
    Volume,
    check_path,
    has_size,
    is_git_data,
    os_errors_as_carry_errors,
)
from mirror.transfer.repositories import chosen_folders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from mirror.core.repo import Repo
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.progress import Report

_DRAFT = "unfinished.json"
_MAX_VOLUMES = 9999
_READ = 4 * 1024 * 1024
# Files and folders outside of hub/ that lead readers to other files; `apply` writes them last.
_LAST = ("latest", "HEAD", "packed-refs", "refs", "openllm")


def create(
    data: Path,
    out: Path,
    repos: Sequence[Repo] = (),
    *,
    since: Path | None = None,
    split: int = 0,
    report: Report,
) -> Manifest:
    """Write the files of `data`, or only `repos` of its hub/, as a bundle in `out`, without the
    files of the bundle `since` and its base bundles. A volume has at most `split` bytes; 0 means
    one volume. After a kill, the next call continues.

    Raises CarryError.
    """
    if not data.is_dir():
        raise CarryError(f"The data folder {data} does not exist. Name another with --data.")
    if out.resolve().is_relative_to(data.resolve()):
        raise CarryError(f"{out} is inside the data folder. Name a folder on another disk.")
    base = Manifest.read(since) if since else None
    with os_errors_as_carry_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if (out / MANIFEST).exists():
            raise CarryError(f"{out} already contains a bundle. Name another folder.")
        found = {item.name: item for item in _contents(data, repos, report)}
        known = base.holds if base else {}
        holds = {**(known if repos else {}), **{item.name: item.digest for item in found.values()}}
        new = (item for item in found.values() if known.get(item.name) != item.digest)
        known_blobs = {digest for name, digest in known.items() if "/blobs/" in name}
        items = list(_with_offsets(new, known_blobs))
        manifest = Manifest(
            uuid.uuid4().hex,
            datetime.now(UTC).isoformat(),
            base.bundle_id if base else "",
            base.created_at if base else "",
            items,
            _write_volumes(data, out, items, split, report),
            holds,
        )
        write_atomically(out / MANIFEST, manifest.render())
        (out / _DRAFT).unlink(missing_ok=True)
    return manifest


def _write_volumes(
    data: Path, out: Path, items: Sequence[Item], split: int, report: Report
) -> list[Volume]:
    ends = (item.offset + item.size for item in items if item.offset is not None)
    total = max(ends, default=0)
    if split and total > _MAX_VOLUMES * split:
        raise CarryError(
            f"The bundle would have {total // split + 1} volumes; the maximum is {_MAX_VOLUMES}. "
            "Choose a larger --split."
        )
    volumes = list(_volumes(total, split or max(total, 1)))
    done = _finished_volumes(out, items, volumes)
    for path in out.glob(VOLUMES):
        if path.name not in done:
            path.unlink()  # a run was killed, or had other files
    remaining = total - sum(volume.size for volume in done.values())
    free = shutil.disk_usage(out).free
    if remaining > free:
        raise CarryError(
            f"The disk of {out} is too small: the bundle needs {human(remaining)}, and "
            f"{human(free)} are free. Free space, or name a folder on another disk."
        )
    report(Planned(len(volumes), total))
    writer = _Writer(data, out, items, report)
    for volume in volumes:
        report(FileBegan(VOLUMES_REPO, volume.name, volume.size))
        done[volume.name] = done.get(volume.name) or writer.write(volume)
        _write_draft(out, items, done.values())
        report(FileDone(VOLUMES_REPO, volume.name, volume.size))
    return [done[volume.name] for volume in volumes]


def _contents(data: Path, repos: Sequence[Repo], report: Report) -> Iterator[Item]:
    """All files to copy: blobs and records of complete revisions and, unless `repos` are chosen,
    files outside of hub/."""
    cache = Cache.of(data / "hub")
    for folder in chosen_folders(cache, repos, report) if repos else cache.folders():
        if not folder.recorded_commits():
            text = f"{folder.repo} has no record, and is omitted. Pull it first."
            report(Message("warning", text))
        for commit in folder.recorded_commits():
            yield from _revision(cache, folder, commit, report)
    for path in _files_outside_hub(data) if not repos else ():
        name = path.relative_to(data).as_posix()
        if name.startswith("git/") and not is_git_data(name):
            continue
        try:
            check_path(name)
            name.encode()
        except ValueError as exc:
            raise CarryError(
                f"{name!r} has a name that a bundle cannot contain. Rename it."
            ) from exc
        yield Item(name, path.stat().st_size, sha256_of(path))


def _revision(cache: Cache, folder: RepoDir, commit: str, report: Report) -> Iterator[Item]:
    """The blobs and the record of a revision; nothing if the revision is incomplete."""
    try:
        record = folder.read_record(commit)
    except (OSError, ManifestError):
        text = (
            f"The record of {folder.repo} at {commit[:12]} is damaged. The revision is omitted. "
            "Pull it again."
        )
        report(Message("warning", text))
        return
    if not all(cache.has(folder, file) for file in record.files.values()):
        text = f"{record.repo} at {commit[:12]} is incomplete, and is omitted. Pull it again."
        report(Message("warning", text))
        return
    base = f"hub/{folder.path.name}"
    for file in {file.etag: file for file in record.files.values()}.values():
        yield Item(f"{base}/blobs/{file.etag}", file.size, file.etag)
    path = folder.record(commit)
    yield Item(f"{base}/hubmirror/{commit}.json", path.stat().st_size, sha256_of(path))


def _files_outside_hub(data: Path) -> Iterator[Path]:
    """The regular files outside of hub/. A folder at the top may be a symlink to another disk."""
    for top in sorted(data.iterdir()):
        if top.name in ("hub", "hubmirror.toml") or top.name.startswith("."):
            continue
        found = [top] if top.is_file() else [
            Path(folder) / name for folder, _, names in os.walk(top) for name in names
        ]  # fmt: skip
        yield from sorted(path for path in found if path.is_file() and not path.is_symlink())


def _with_offsets(items: Iterable[Item], known_blobs: AbstractSet[str]) -> Iterator[Item]:
    """The items in the order of the stream, with their offsets. The same content has one offset.
    Blobs that the other host has (`known_blobs`) have none."""
    offset, offsets = 0, dict[tuple[str, int], int]()
    for item in sorted(items, key=_rank):
        key = (item.digest, item.size)
        if "/blobs/" in item.name and item.digest in known_blobs:
            yield replace(item, offset=None)
            continue
        if key not in offsets:
            offsets[key] = offset
            offset += item.size
        yield Item(item.name, item.size, item.digest, offsets[key])


def _rank(item: Item) -> tuple[int, str]:
    """A sort key: blobs and other files first, then records, then files of `_LAST`."""
    parts = item.name.split("/")
    if parts[0] == "hub":
        return (0 if parts[2] == "blobs" else 1, item.name)
    return (2 if any(part in _LAST for part in parts) else 0, item.name)


def _volumes(total: int, split: int) -> Iterator[Volume]:
    for number, offset in enumerate(range(0, total, split), 1):
        yield Volume(f"hubmirror-{number:04}.bin", offset, min(split, total - offset))


class _Writer:
    """Writes volumes, and checks the digests of the files that it reads."""

    def __init__(self, data: Path, out: Path, items: Sequence[Item], report: Report) -> None:
        self._data = data
        self._out = out
        self._items = items
        self._report = report
        self._current: tuple[Item, hashlib._Hash] | None = None

    def write(self, volume: Volume) -> Volume:
        """Write one volume. It gets its name after it is synced to disk. Raises CarryError."""
        partial_file, sha256 = self._out / f"{volume.name}.partial", hashlib.sha256()
        with partial_file.open("wb") as file:
            for chunk in self._chunks(volume):
                sha256.update(chunk)
                file.write(chunk)
                self._report(FileAdvanced(VOLUMES_REPO, volume.name, len(chunk)))
            file.flush()
            os.fsync(file.fileno())
        partial_file.replace(self._out / volume.name)
        sync_folder(self._out)
        return replace(volume, sha256=sha256.hexdigest())

    def _chunks(self, volume: Volume) -> Iterator[bytes]:
        written, end = volume.offset, volume.offset + volume.size
        for item in self._items:
            if item.offset is None:
                continue
            if item.offset <= written < min(end, item.offset + item.size):
                for chunk in self._read(item, item.offset, written, end):
                    yield chunk
                    written += len(chunk)

    def _read(self, item: Item, offset: int, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a file between two offsets of the stream, `start` and `end`.

        At the end of the file, its digest is checked. If an earlier run read the start of the
        file, only `apply` checks it.
        """
        if start == offset:
            self._current = (item, blob_hash(item.digest, item.size))
        remaining = min(end, offset + item.size) - start
        with (self._data / item.name).open("rb") as reader:
            reader.seek(start - offset)
            while remaining and (chunk := reader.read(min(_READ, remaining))):
                remaining -= len(chunk)
                if self._current and self._current[0] is item:
                    self._current[1].update(chunk)
                yield chunk
        if remaining:
            raise CarryError(
                f"{item.name} became shorter while it was read. Run the command again."
            )
        is_complete = end >= offset + item.size and self._current and self._current[0] is item
        if is_complete and self._current and self._current[1].hexdigest() != item.digest:
            raise CarryError(f"{item.name} is corrupt. Run `hubmirror verify --repair` first.")


def _finished_volumes(
    out: Path, items: Sequence[Item], volumes: Sequence[Volume]
) -> dict[str, Volume]:
    """Finished volumes of an earlier run by name; empty if that run had other files."""
    try:
        draft = orjson.loads((out / _DRAFT).read_bytes())
        if draft["items"] != [item.row() for item in items]:
            return {}
        done = {volume.name: volume for volume in map(Volume.parse, draft["volumes"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {
        volume.name: done[volume.name]
        for volume in volumes
        if volume.name in done
        and replace(done[volume.name], sha256="") == volume
        and has_size(out / volume.name, volume.size)
    }


def _write_draft(out: Path, items: Sequence[Item], done: Iterable[Volume]) -> None:
    """Write the list of finished volumes, for a run that continues."""
    body = {"items": [item.row() for item in items], "volumes": [volume.row() for volume in done]}
    write_atomically(out / _DRAFT, orjson.dumps(body))
