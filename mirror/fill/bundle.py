"""A data folder on a disk that is carried by hand.

A bundle is a folder: `manifest.json`, and volumes that together are one stream of bytes, in which
the manifest says where each file lies. Names and sizes fit any file system. The manifest has the
digest of each volume, so that whoever signs it signs all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import orjson

from mirror.errors import CarryError
from mirror.fill.blobs import ARRIVING, Cache, share
from mirror.fill.events import FileAdvanced, FileBegan, FileDone, Noted, Planned, RevisionDone
from mirror.fill.manifest import MANIFEST, Item, Manifest, Volume
from mirror.manifests import ManifestError, Record
from mirror.repos import Repo
from mirror.sizes import human
from mirror.sources.layout import WORKSHOP
from mirror.sources.publish import publish
from mirror.state import sync_folder, write_atomically
from mirror.trees import used_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from mirror.fill.events import Report

_DRAFT = "unfinished.json"
_READ = 4 * 1024 * 1024
_REPO = Repo.parse("bundle")  # whose name events carry for volumes
# Files outside hub/ that others are found by; they arrive last.
_LAST = ("latest", "HEAD", "packed-refs", "refs", "openllm")


def create(
    data: Path, out: Path, *, since: Path | None = None, split: int = 0, report: Report
) -> Manifest:
    """Write a bundle of what `data` holds, but for what the bundle `since` and those before it
    brought. Volumes are at most `split` bytes. Run again after it was killed, it goes on.

    Raises CarryError.
    """
    if not data.is_dir():
        raise CarryError(f"The data folder {data} is not there. Name another with --data.")
    base = Manifest.read(since) if since else None
    with _naming_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if (out / MANIFEST).exists():
            raise CarryError(f"{out} holds a bundle already. Name another folder.")
        found = {item.name: item for item in _contents(data, report)}
        held = base.holds if base else {}
        items = list(_placed(one for one in found.values() if held.get(one.name) != one.digest))
        manifest = Manifest(
            uuid.uuid4().hex,
            datetime.now(UTC).isoformat(),
            base.bundle_id if base else "",
            items,
            _write_volumes(data, out, items, split, report),
            {name: item.digest for name, item in found.items()},
        )
        write_atomically(out / MANIFEST, manifest.render())
        (out / _DRAFT).unlink(missing_ok=True)
    return manifest


def _write_volumes(
    data: Path, out: Path, items: Sequence[Item], split: int, report: Report
) -> list[Volume]:
    total = max((item.offset + item.size for item in items), default=0)
    volumes = list(_volumes(total, split or max(total, 1)))
    done = _resumed(out, items, volumes)
    left, free = total - sum(one.size for one in done.values()), shutil.disk_usage(out).free
    if left > free:
        raise CarryError(
            f"{out} is too small: {human(left)} are to be written, and {human(free)} are free."
        )
    report(Planned(len(volumes), total))
    writer = _Writer(data, out, items, report)
    for volume in volumes:
        report(FileBegan(_REPO, volume.name, volume.size))
        done[volume.name] = done.get(volume.name) or writer.write(volume)
        _draft(out, items, done.values())
        report(FileDone(_REPO, volume.name, volume.size))
    return [done[volume.name] for volume in volumes]


def _contents(data: Path, report: Report) -> Iterator[Item]:
    """Every file that a mirror needs: proven blobs, records, refs, and what lies beside hub/."""
    cache = Cache.of(data / "hub")
    for folder in cache.folders():
        for commit in folder.recorded_commits():
            try:
                record = folder.read_record(commit)
            except (OSError, ManifestError):
                continue
            if not all(cache.has(folder, file) for file in record.files.values()):
                text = f"{record.repo} at {commit[:12]} is not whole here, and is left out."
                report(Noted("warning", text))
                continue
            base = f"hub/{folder.path.name}"
            for file in {one.etag: one for one in record.files.values()}.values():
                yield Item(f"{base}/blobs/{file.etag}", file.size, file.etag)
            path = folder.record(commit)
            yield Item(f"{base}/hubmirror/{commit}.json", path.stat().st_size, _sha256(path))
    for path in sorted(data.rglob("*")):
        name = path.relative_to(data)
        if name.parts[0] in ("hub", WORKSHOP) or path.is_symlink() or not path.is_file():
            continue
        yield Item(name.as_posix(), path.stat().st_size, _sha256(path))


def _placed(items: Iterable[Item]) -> Iterator[Item]:
    """Each content once in the stream; what others are found by comes last."""
    offset, places = 0, dict[tuple[str, int], int]()
    for item in sorted(items, key=_rank):
        key = (item.digest, item.size)
        if key not in places:
            places[key] = offset
            offset += item.size
        yield Item(item.name, item.size, item.digest, places[key])


def _rank(item: Item) -> tuple[int, str]:
    parts = item.name.split("/")
    if parts[0] == "hub":
        return (0 if parts[2] == "blobs" else 1, item.name)
    return (2 if any(part in _LAST for part in parts) else 0, item.name)


def _volumes(total: int, split: int) -> Iterator[Volume]:
    for number, offset in enumerate(range(0, total, split), 1):
        yield Volume(f"hubmirror-{number:04}.bin", offset, min(split, total - offset))


class _Writer:
    """Writes volumes, and proves the files that it reads for them."""

    def __init__(self, data: Path, out: Path, items: Sequence[Item], report: Report) -> None:
        self._data = data
        self._out = out
        self._items = items
        self._report = report
        self._proof: tuple[Item, hashlib._Hash] | None = None

    def write(self, volume: Volume) -> Volume:
        """One volume, under its name when it is on the disk. Raises CarryError."""
        partial_file, running = self._out / f"{volume.name}.partial", hashlib.sha256()
        with partial_file.open("wb") as file:
            for chunk in self._chunks(volume):
                running.update(chunk)
                file.write(chunk)
                self._report(FileAdvanced(_REPO, volume.name, len(chunk)))
            file.flush()
            os.fsync(file.fileno())
        partial_file.replace(self._out / volume.name)
        sync_folder(self._out)
        return replace(volume, sha256=running.hexdigest())

    def _chunks(self, volume: Volume) -> Iterator[bytes]:
        written, end = volume.offset, volume.offset + volume.size
        for item in self._items:
            if item.offset <= written < min(end, item.offset + item.size):
                for chunk in self._read(item, written, end):
                    yield chunk
                    written += len(chunk)

    def _read(self, item: Item, start: int, end: int) -> Iterator[bytes]:
        """A file's bytes from one place of the stream to another. At its end it is compared, unless
        an earlier run began it: then it is proven when it arrives."""
        if start == item.offset:
            self._proof = (item, _start(item))
        left = min(end, item.offset + item.size) - start
        with (self._data / item.name).open("rb") as reader:
            reader.seek(start - item.offset)
            while left and (chunk := reader.read(min(_READ, left))):
                left -= len(chunk)
                if self._proof and self._proof[0] is item:
                    self._proof[1].update(chunk)
                yield chunk
        if left:
            raise CarryError(f"{item.name} became shorter while it was read. Run it again.")
        is_whole = end >= item.offset + item.size and self._proof and self._proof[0] is item
        if is_whole and self._proof and self._proof[1].hexdigest() != item.digest:
            raise CarryError(f"{item.name} is corrupt. Run `hubmirror verify --repair` first.")


def _resumed(out: Path, items: Sequence[Item], volumes: Sequence[Volume]) -> dict[str, Volume]:
    """Volumes that an earlier run finished, where it had the same to write."""
    try:
        draft = orjson.loads((out / _DRAFT).read_bytes())
        if draft["items"] != [item.row() for item in items]:
            return {}
        done = {one.name: one for one in map(Volume.parse, draft["volumes"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    same = [
        one for one in volumes if one.name in done and replace(done[one.name], sha256="") == one
    ]
    return {one.name: done[one.name] for one in same if _has_size(out / one.name, one.size)}


def _draft(out: Path, items: Sequence[Item], done: Iterable[Volume]) -> None:
    body = {"items": [item.row() for item in items], "volumes": [one.row() for one in done]}
    write_atomically(out / _DRAFT, orjson.dumps(body))


def apply(data: Path, folder: Path, *, report: Report) -> Manifest:
    """Bring a bundle into `data`. Every volume is read and found right before anything changes.

    Run again after it was killed, it goes on. Raises CarryError, naming the volumes that are
    missing or damaged.
    """
    manifest = Manifest.read(folder)
    with _naming_errors(data):
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


@contextlib.contextmanager
def _naming_errors(folder: Path) -> Iterator[None]:
    """Says what cannot be written or read, and why, in one line."""
    try:
        yield
    except OSError as exc:
        name = exc.filename or folder
        raise CarryError(f"{name}: {exc.strerror}. Run it again when that is mended.") from exc


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
    sizes = [one.name for one in manifest.volumes if not _has_size(folder / one.name, one.size)]
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
        report(FileBegan(_REPO, volume.name, volume.size))
        advanced = partial(FileAdvanced, _REPO, volume.name)
        right = _sha256(path, lambda size: report(advanced(size))) == volume.sha256
        report(FileDone(_REPO, volume.name, volume.size))
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
    if not _has_size(path, item.size):
        return False
    return "/blobs/" in item.name or _sha256(path) == item.digest


def _bring(target: Path, cache: Cache, stream: _Stream, item: Item, report: Report) -> None:
    """One file from the stream to its place, proven."""
    staged, running = cache.workshop / "arriving" / item.digest, _start(item)
    staged.parent.mkdir(parents=True, exist_ok=True)
    report(FileBegan(_REPO, item.name, item.size))
    with staged.open("wb") as file:
        for chunk in stream.chunks(item):
            file.write(chunk)
            running.update(chunk)
            report(FileAdvanced(_REPO, item.name, len(chunk)))
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    if running.hexdigest() != item.digest:
        staged.unlink()
        raise CarryError(f"{item.name} is not what it was: it was damaged before it was bundled.")
    staged.replace(target)
    sync_folder(target.parent)
    report(FileDone(_REPO, item.name, item.size))


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


def _start(item: Item) -> hashlib._Hash:
    """A hash of the kind of a file's digest, before its first byte."""
    if len(item.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % item.size, usedforsecurity=False)


def _sha256(path: Path, advanced: Callable[[int], None] = lambda _: None) -> str:
    running = hashlib.sha256()
    with path.open("rb") as reader:
        while chunk := reader.read(_READ):
            running.update(chunk)
            advanced(len(chunk))
    return running.hexdigest()


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size == size
    except OSError:
        return False
