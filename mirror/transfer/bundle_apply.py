"""Applies a bundle to a data folder. All volumes are checked before any file changes."""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError
from mirror.core.files import remove_tree, set_mode
from mirror.core.record import ManifestError, Record
from mirror.core.tree import blob_hash, used_storage
from mirror.core.units import human
from mirror.derived.state import sync_folder
from mirror.store.cache import BUNDLE_LOCK, Cache, share
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Planned, RevisionDone
from mirror.store.publish import publish
from mirror.store.verify_digest import sha256_of
from mirror.transfer.bundle_base import (
    blob_paths,
    check_base,
    check_blobs,
    is_blob,
    is_record,
    note_applied,
)
from mirror.transfer.bundle_manifest import (
    MANIFEST,
    VOLUMES_REPO,
    Item,
    Manifest,
    Volume,
    has_size,
    os_errors_as_carry_errors,
)
from mirror.transfer.bundle_volumes import check_volumes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mirror.store.progress import Report

_READ = 4 * 1024 * 1024


class _DigestMismatchError(CarryError):
    """The bytes of a file in a volume do not match its digest in the manifest."""


def apply(data: Path, folder: Path, *, signers: Path | None = None, report: Report) -> Manifest:
    """Apply the bundle `folder` to `data`. The digests of all volumes are checked first and, if
    `signers` is given, before it the signature of the manifest.

    After a kill, the next call continues. Raises CarryError with the names of missing or damaged
    volumes.
    """
    folder = folder.parent if folder.name == MANIFEST else folder
    manifest = Manifest.read(folder, signers)
    with os_errors_as_carry_errors(data):
        cache = Cache.of(data / "hub")
        with cache.try_lock(BUNDLE_LOCK) as is_free:
            if not is_free:
                raise CarryError(
                    "Another `hubmirror bundle apply` is running. Wait until it ends, and run this "
                    "command again."
                )
            cache.check_symlinks()
            check_base(data, cache, manifest)
            check_volumes(folder, manifest, report, _marks(cache, manifest))
            try:
                _apply(data, cache, _Stream(folder, manifest.volumes), manifest, report)
            except _DigestMismatchError:
                # A volume may have changed after its check: check all again, to name it.
                remove_tree(_marks(cache, manifest))
                check_volumes(folder, manifest, report, _marks(cache, manifest))
                raise
            note_applied(cache, manifest)
        remove_tree(_marks(cache, manifest))
    return manifest


def _apply(data: Path, cache: Cache, stream: _Stream, manifest: Manifest, report: Report) -> None:
    records = [_record(stream, item) for item in manifest.items if is_record(item.name)]
    check_blobs(data, manifest, records)
    remove_tree(_staging(cache))
    absent = [
        item for item in manifest.items if not is_record(item.name) and not _is_present(data, item)
    ]
    needed = sum({item.digest: item.size for item in absent if item.offset is not None}.values())
    free = shutil.disk_usage(cache.root).free
    if needed > free:
        raise CarryError(
            f"The disk is too small: the bundle needs {human(needed)}, and {human(free)} are free. "
            "Free space with `hubmirror gc` or `hubmirror rm`."
        )
    report(Planned(len(absent), needed))
    paths = blob_paths(manifest)
    for item in absent:
        target = data / item.name
        target.parent.mkdir(parents=True, exist_ok=True)
        candidates = (data / name for name in paths.get(item.digest, ()))
        existing = next((path for path in candidates if has_size(path, item.size)), None)
        if not (existing and share(existing, target)):
            _extract(target, cache, stream, item, report)
    _publish(cache, records, report)


def _record(stream: _Stream, item: Item) -> Record:
    try:
        return Record.parse(stream.read(item))
    except ManifestError as exc:
        raise CarryError(f"A record in the bundle is {exc}. Create the bundle again.") from exc


def _staging(cache: Cache) -> Path:
    return cache.work_dir / "arriving"


def _marks(cache: Cache, manifest: Manifest) -> Path:
    """The folder with a mark for each checked volume, for a run that continues."""
    return cache.work_dir / "bundles" / manifest.bundle_id


def _is_present(data: Path, item: Item) -> bool:
    path = data / item.name
    if not has_size(path, item.size):
        return False
    return is_blob(item.name) or sha256_of(path) == item.digest


def _extract(target: Path, cache: Cache, stream: _Stream, item: Item, report: Report) -> None:
    """Copy one file from the volumes to `target`, after a check of its digest."""
    staged, hasher = _staging(cache) / item.digest, blob_hash(item.digest, item.size)
    staged.parent.mkdir(parents=True, exist_ok=True)
    report(FileBegan(VOLUMES_REPO, item.name, item.size))
    with staged.open("wb") as file:
        for chunk in stream.chunks(item):
            file.write(chunk)
            hasher.update(chunk)
            report(FileAdvanced(VOLUMES_REPO, item.name, len(chunk)))
        file.flush()
        set_mode(file.fileno(), 0o644)
        os.fsync(file.fileno())
    if hasher.hexdigest() != item.digest:
        staged.unlink()
        raise _damaged(item)
    staged.replace(target)
    sync_folder(target.parent)
    report(FileDone(VOLUMES_REPO, item.name, item.size))


def _publish(cache: Cache, records: Sequence[Record], report: Report) -> None:
    for record in sorted(records, key=lambda record: record.pulled_at):
        with cache.lock(record.repo, lambda: None):
            outcome = "applied"
            if _has_later_pull(cache, record):
                outcome = "already present from a later pull"
            else:
                publish(cache.root, record, _refs_to_write(cache, record))
        size = used_storage(record.files.values())
        report(RevisionDone(record.repo, record.commit_hash, outcome, len(record.files), size))


def _has_later_pull(cache: Cache, record: Record) -> bool:
    """Whether the cache has the complete revision from a later pull, which may have more files."""
    folder = cache.folder(record.repo)
    try:
        known = folder.read_record(record.commit_hash)
    except (OSError, ManifestError):
        return False
    is_whole = all(cache.has(folder, file) for file in known.files.values())
    return known.pulled_at > record.pulled_at and is_whole


def _refs_to_write(cache: Cache, record: Record) -> list[str]:
    """The refs of the record, without those that a later pull moved."""
    folder, refs = cache.folder(record.repo), []
    for name in record.refs:
        try:
            is_newer = folder.read_record(folder.points_to(name)).pulled_at > record.pulled_at
        except (OSError, ManifestError):
            is_newer = False
        if not is_newer:
            refs.append(name)
    return refs


def _damaged(item: Item) -> _DigestMismatchError:
    return _DigestMismatchError(
        f"{item.name} does not match its digest: it was damaged before the bundle was created. "
        "Run `hubmirror verify --repair` there, and create the bundle again."
    )


class _Stream:
    """The volumes of a bundle as one stream of bytes."""

    def __init__(self, folder: Path, volumes: Sequence[Volume]) -> None:
        self._folder = folder
        self._volumes = volumes

    def read(self, item: Item) -> bytes:
        """The bytes of a small file. Raises CarryError if they do not match its sha256."""
        body = b"".join(self.chunks(item))
        if hashlib.sha256(body).hexdigest() != item.digest:
            raise _damaged(item)
        return body

    def chunks(self, item: Item) -> Iterator[bytes]:
        """The bytes of a file, which may span several volumes. Does not check the digest."""
        position = item.offset or 0
        end = position + item.size
        for volume in self._volumes:
            volume_end = volume.offset + volume.size
            if position >= end or position >= volume_end or position < volume.offset:
                continue
            with (self._folder / volume.name).open("rb") as reader:
                reader.seek(position - volume.offset)
                remaining = min(end, volume_end) - position
                while remaining and (chunk := reader.read(min(_READ, remaining))):
                    yield chunk
                    position += len(chunk)
                    remaining -= len(chunk)
