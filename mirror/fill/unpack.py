"""Bringing a bundle into a data folder: proven in full before anything changes."""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from mirror.errors import CarryError
from mirror.fill.blobs import ARRIVING, Cache, share
from mirror.fill.bundle import (
    CARRIED,
    Item,
    Manifest,
    Volume,
    has_size,
    naming_errors,
)
from mirror.fill.events import FileAdvanced, FileBegan, FileDone, Planned, RevisionDone
from mirror.fill.proof import digest, sha256_of
from mirror.manifests import ManifestError, Record
from mirror.sizes import human
from mirror.sources.publish import publish
from mirror.state import sync_folder, write_atomically
from mirror.trees import blob_hash, used_storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from mirror.fill.events import Report

_READ = 4 * 1024 * 1024


def apply(data: Path, folder: Path, *, report: Report) -> Manifest:
    """Bring a bundle into `data`. Every volume is read and found right before anything changes.

    Run again after it was killed, it goes on. Raises CarryError, naming the volumes that are
    missing or damaged.
    """
    manifest = Manifest.read(folder)
    with naming_errors(data):
        cache = Cache.of(data / "hub")
        with cache.try_lock(ARRIVING) as is_free:
            if not is_free:
                raise CarryError("Another bundle is being applied. Wait for its end.")
            _check_base(data, manifest)
            _check_volumes(cache, folder, manifest, report)
            _apply(data, cache, _Stream(folder, manifest.volumes), manifest, report)
        shutil.rmtree(_marks(cache, manifest), ignore_errors=True)
    return manifest


def _apply(data: Path, cache: Cache, stream: _Stream, manifest: Manifest, report: Report) -> None:
    absent = {item.name: item for item in manifest.items if not _is_here(data, item)}
    needed = sum({item.digest: item.size for item in absent.values()}.values())
    free = shutil.disk_usage(cache.root).free
    if needed > free:
        raise CarryError(
            f"The disk is too small: {human(needed)} are to be written, and {human(free)} are free."
        )
    report(Planned(len(absent), needed))
    records: list[bytes] = []
    brought: dict[str, Path] = {}
    for item in manifest.items:
        if item.name.startswith("hub/") and "/hubmirror/" in item.name:
            records.append(stream.read(item))
        elif item.name in absent:
            target = data / item.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if item.digest not in brought or not share(brought[item.digest], target):
                _bring(target, cache, stream, item, report)
            brought[item.digest] = target
    _publish(cache, records, report)


def _check_base(data: Path, manifest: Manifest) -> None:
    """Whether what the bundle builds upon is here."""
    carried = {item.name for item in manifest.items}
    absent = [
        name
        for name in manifest.holds
        if name not in carried and "/hubmirror/" not in name and not (data / name).exists()
    ]
    if absent:
        raise CarryError(
            f"This bundle builds upon the bundle {manifest.since}, and {len(absent)} files of "
            f"that are not here (the first is {absent[0]}). Apply that one first."
        )


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
        report(FileBegan(CARRIED, volume.name, volume.size))
        advanced = partial(FileAdvanced, CARRIED, volume.name)
        right = (
            digest(path, volume.sha256, volume.size, lambda size: report(advanced(size)))
            == volume.sha256
        )
        report(FileDone(CARRIED, volume.name, volume.size))
        if right:
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(mark, stamp.encode())
        return right

    with ThreadPoolExecutor(os.cpu_count() or 1, "volumes") as pool:
        right = list(pool.map(is_right, manifest.volumes))
    wrong = [one.name for one, is_ok in zip(manifest.volumes, right, strict=True) if not is_ok]
    if wrong:
        raise CarryError(
            f"Volumes are damaged: {', '.join(wrong)}. Copy them again; nothing was changed."
        )


def _marks(cache: Cache, manifest: Manifest) -> Path:
    """Notes of the volumes that were read and found right, for a run that goes on."""
    return cache.workshop / "bundles" / manifest.bundle_id


def _is_here(data: Path, item: Item) -> bool:
    path = data / item.name
    if not has_size(path, item.size):
        return False
    return "/blobs/" in item.name or sha256_of(path) == item.digest


def _bring(target: Path, cache: Cache, stream: _Stream, item: Item, report: Report) -> None:
    """One file from the stream to its place, proven."""
    staged, running = cache.workshop / "arriving" / item.digest, blob_hash(item.digest, item.size)
    staged.parent.mkdir(parents=True, exist_ok=True)
    report(FileBegan(CARRIED, item.name, item.size))
    with staged.open("wb") as file:
        for chunk in stream.chunks(item):
            file.write(chunk)
            running.update(chunk)
            report(FileAdvanced(CARRIED, item.name, len(chunk)))
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    if running.hexdigest() != item.digest:
        staged.unlink()
        raise CarryError(f"{item.name} is not what it was: it was damaged before it was bundled.")
    staged.replace(target)
    sync_folder(target.parent)
    report(FileDone(CARRIED, item.name, item.size))


def _publish(cache: Cache, bodies: Iterable[bytes], report: Report) -> None:
    try:
        records = sorted(map(Record.parse, bodies), key=lambda record: record.pulled_at)
    except ManifestError as exc:
        raise CarryError(f"A record in the bundle is {exc}.") from exc
    for record in records:
        with cache.lock(record.repo, lambda: None):
            publish(cache.root, record, _newer_refs(cache, record))
        size = used_storage(record.files.values())
        report(RevisionDone(record.repo, record.commit_hash, "applied", len(record.files), size))


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
            raise CarryError(f"{item.name} is not what it was: it was damaged before bundling.")
        return body

    def chunks(self, item: Item) -> Iterator[bytes]:
        at, end = item.offset, item.offset + item.size
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
