"""Bringing a bundle into a data folder: proven in full before anything changes."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import partial
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError
from mirror.core.files import remove_tree
from mirror.core.record import ManifestError, Record
from mirror.core.tree import blob_hash, used_storage
from mirror.core.units import human
from mirror.derived.state import sync_folder, write_atomically
from mirror.store.cache import BUNDLE_LOCK, Cache, share
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Planned, RevisionDone
from mirror.store.publish import publish
from mirror.store.verify_digest import digest, sha256_of
from mirror.store.worker_pool import results, threads
from mirror.transfer.bundle_base import (
    check_base,
    check_blobs,
    is_blob,
    is_record,
    note_applied,
    places,
)
from mirror.transfer.bundle_manifest import (
    MANIFEST,
    VOLUMES_REPO,
    Item,
    Manifest,
    Volume,
    has_size,
    naming_errors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mirror.store.progress import Report

_READ = 4 * 1024 * 1024


class _WrongBytesError(CarryError):
    """What a volume gave is not what the manifest says of a file."""


def apply(data: Path, folder: Path, *, report: Report) -> Manifest:
    """Bring a bundle into `data`. Every volume is read and found right before anything changes.

    Run again after it was killed, it goes on. Raises CarryError, naming the volumes that are
    missing or damaged.
    """
    folder = folder.parent if folder.name == MANIFEST else folder
    manifest = Manifest.read(folder)
    with naming_errors(data):
        cache = Cache.of(data / "hub")
        with cache.try_lock(BUNDLE_LOCK) as is_free:
            if not is_free:
                raise CarryError("Another bundle is being applied. Wait for its end.")
            check_base(data, cache, manifest)
            _check_volumes(cache, folder, manifest, report)
            try:
                _apply(data, cache, _Stream(folder, manifest.volumes), manifest, report)
            except _WrongBytesError:
                # A volume may have changed since it was found right: then it is named.
                remove_tree(_marks(cache, manifest))
                _check_volumes(cache, folder, manifest, report)
                raise
            note_applied(cache, manifest)
        remove_tree(_marks(cache, manifest))
    return manifest


def _apply(data: Path, cache: Cache, stream: _Stream, manifest: Manifest, report: Report) -> None:
    records = [_record(stream, item) for item in manifest.items if is_record(item.name)]
    check_blobs(data, manifest, records)
    remove_tree(_arriving(cache))
    absent = [
        item for item in manifest.items if not is_record(item.name) and not _is_here(data, item)
    ]
    needed = sum({one.digest: one.size for one in absent if one.offset is not None}.values())
    free = shutil.disk_usage(cache.root).free
    if needed > free:
        raise CarryError(
            f"The disk is too small: {human(needed)} are to be written, and {human(free)} are free."
        )
    report(Planned(len(absent), needed))
    elsewhere = places(manifest)
    for item in absent:
        target = data / item.name
        target.parent.mkdir(parents=True, exist_ok=True)
        twins = (data / name for name in elsewhere.get(item.digest, ()))
        twin = next((one for one in twins if has_size(one, item.size)), None)
        if not (twin and share(twin, target)):
            _bring(target, cache, stream, item, report)
    _publish(cache, records, report)


def _record(stream: _Stream, item: Item) -> Record:
    try:
        return Record.parse(stream.read(item))
    except ManifestError as exc:
        raise CarryError(f"A record in the bundle is {exc}.") from exc


def _arriving(cache: Cache) -> Path:
    return cache.work_dir / "arriving"


def _check_volumes(cache: Cache, folder: Path, manifest: Manifest, report: Report) -> None:
    names = [one.name for one in manifest.volumes if not (folder / one.name).is_file()]
    if names:
        raise CarryError(f"Volumes are missing: {', '.join(names)}. Nothing was changed.")
    sizes = [one.name for one in manifest.volumes if not has_size(folder / one.name, one.size)]
    if sizes:
        raise CarryError(
            f"Volumes have a wrong size: {', '.join(sizes)}. Copy them again; nothing was changed."
        )
    report(Planned(len(manifest.volumes), sum(one.size for one in manifest.volumes)))

    def is_right(volume: Volume) -> bool:
        path, mark = folder / volume.name, _marks(cache, manifest) / volume.name
        stamp = f"{path.stat().st_mtime_ns} {volume.size} {volume.sha256}"
        if mark.exists() and mark.read_text() == stamp:
            return True
        report(FileBegan(VOLUMES_REPO, volume.name, volume.size))
        advanced = partial(FileAdvanced, VOLUMES_REPO, volume.name)
        right = (
            digest(path, volume.sha256, volume.size, lambda size: report(advanced(size)))
            == volume.sha256
        )
        report(FileDone(VOLUMES_REPO, volume.name, volume.size))
        if right:
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(mark, stamp.encode())
        return right

    with threads(os.cpu_count() or 1, "volumes") as pool:
        right = results(pool, is_right, manifest.volumes)
    wrong = [one.name for one, is_ok in zip(manifest.volumes, right, strict=True) if not is_ok]
    if wrong:
        raise CarryError(
            f"Volumes are damaged: {', '.join(wrong)}. Copy them again; nothing was changed."
        )


def _marks(cache: Cache, manifest: Manifest) -> Path:
    """Notes of the volumes that were read and found right, for a run that goes on."""
    return cache.work_dir / "bundles" / manifest.bundle_id


def _is_here(data: Path, item: Item) -> bool:
    path = data / item.name
    if not has_size(path, item.size):
        return False
    return is_blob(item.name) or sha256_of(path) == item.digest


def _bring(target: Path, cache: Cache, stream: _Stream, item: Item, report: Report) -> None:
    """One file from the stream to its place, proven."""
    staged, running = _arriving(cache) / item.digest, blob_hash(item.digest, item.size)
    staged.parent.mkdir(parents=True, exist_ok=True)
    report(FileBegan(VOLUMES_REPO, item.name, item.size))
    with staged.open("wb") as file:
        for chunk in stream.chunks(item):
            file.write(chunk)
            running.update(chunk)
            report(FileAdvanced(VOLUMES_REPO, item.name, len(chunk)))
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    if running.hexdigest() != item.digest:
        staged.unlink()
        raise _WrongBytesError(
            f"{item.name} is not what it was: it was damaged before it was bundled."
        )
    staged.replace(target)
    sync_folder(target.parent)
    report(FileDone(VOLUMES_REPO, item.name, item.size))


def _publish(cache: Cache, records: Sequence[Record], report: Report) -> None:
    for record in sorted(records, key=lambda one: one.pulled_at):
        with cache.lock(record.repo, lambda: None):
            outcome = "applied"
            if _is_newer(cache, record):
                outcome = "here already, by a later pull"
            else:
                publish(cache.root, record, _newer_refs(cache, record))
        size = used_storage(record.files.values())
        report(RevisionDone(record.repo, record.commit_hash, outcome, len(record.files), size))


def _is_newer(cache: Cache, record: Record) -> bool:
    """Whether the revision is here as a whole, by a later pull, which may have widened it."""
    folder = cache.folder(record.repo)
    try:
        known = folder.read_record(record.commit_hash)
    except (OSError, ManifestError):
        return False
    is_whole = all(cache.has(folder, file) for file in known.files.values())
    return known.pulled_at > record.pulled_at and is_whole


def _newer_refs(cache: Cache, record: Record) -> list[str]:
    """The record's refs, but for those that a later pull has moved on here."""
    folder, refs = cache.folder(record.repo), []
    for name in record.refs:
        try:
            is_newer = folder.read_record(folder.points_to(name)).pulled_at > record.pulled_at
        except (OSError, ManifestError):
            is_newer = False
        if not is_newer:
            refs.append(name)
    return refs


class _Stream:
    """The volumes of a bundle as one run of bytes."""

    def __init__(self, folder: Path, volumes: Sequence[Volume]) -> None:
        self._folder = folder
        self._volumes = volumes

    def read(self, item: Item) -> bytes:
        """A small file, proven. Raises CarryError."""
        body = b"".join(self.chunks(item))
        if hashlib.sha256(body).hexdigest() != item.digest:
            raise _WrongBytesError(
                f"{item.name} is not what it was: it was damaged before it was bundled."
            )
        return body

    def chunks(self, item: Item) -> Iterator[bytes]:
        at = item.offset or 0
        end = at + item.size
        for volume in self._volumes:
            last = volume.offset + volume.size
            if at >= end or at >= last or at < volume.offset:
                continue
            with (self._folder / volume.name).open("rb") as reader:
                reader.seek(at - volume.offset)
                left = min(end, last) - at
                while left and (chunk := reader.read(min(_READ, left))):
                    yield chunk
                    at += len(chunk)
                    left -= len(chunk)
