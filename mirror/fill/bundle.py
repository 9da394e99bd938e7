"""A data folder on a disk that is carried by hand.

A bundle is a folder: `manifest.json`, and volumes that together are one stream of bytes, in which
the manifest says where each file lies. Names and sizes fit any file system. The manifest has the
digest of each volume, so that whoever signs it signs all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from mirror.errors import CarryError
from mirror.fill.blobs import Cache, share
from mirror.fill.events import FileAdvanced, FileBegan, FileDone, Planned, RevisionDone
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

_FORMAT = 1
_MANIFEST = "manifest.json"
_DRAFT = "unfinished.json"
_READ = 4 * 1024 * 1024
_REPO = Repo.parse("bundle")  # whose name events carry for volumes
# Files outside hub/ that others are found by; they arrive last.
_LAST = ("latest", "HEAD", "packed-refs", "refs")


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a bundle: `name` is its path below the data folder. `digest` is sha256, or for a
    blob that git keeps whole its sha1."""

    name: str
    size: int
    digest: str
    offset: int = 0

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name, "size": self.size, "digest": self.digest, "offset": self.offset,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Volume:
    """A piece of the stream, from `offset`."""

    name: str
    offset: int
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds. `holds` are all names with their digests that a data folder has once
    this bundle, and those before it, were applied."""

    bundle_id: str
    created_at: str
    since: str
    items: Sequence[Item]
    volumes: Sequence[Volume]
    holds: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises CarryError."""
        try:
            data = orjson.loads((folder / _MANIFEST).read_bytes())
            if data["format_version"] != _FORMAT:
                raise CarryError(f"The bundle {folder.name} is of a newer hubmirror; update this.")
            return cls(
                str(data["bundle_id"]),
                str(data["created_at"]),
                str(data["since"]),
                [_item(row) for row in data["items"]],
                [Volume(_plain(row["name"]), int(row["offset"]), int(row["size"]), row["sha256"])
                 for row in data["volumes"]],
                {_below(name): str(digest) for name, digest in data["holds"].items()},
            )  # fmt: skip
        except FileNotFoundError as exc:
            raise CarryError(
                f"{folder} holds no {_MANIFEST}: it is no bundle, or its creation was not "
                "finished. Run `hubmirror bundle create` again."
            ) from exc
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise CarryError(f"The manifest of the bundle {folder.name} is damaged.") from exc

    def render(self) -> bytes:
        volumes = [
            {"name": one.name, "offset": one.offset, "size": one.size, "sha256": one.sha256}
            for one in self.volumes
        ]
        return orjson.dumps(
            {
                "format_version": _FORMAT,
                "bundle_id": self.bundle_id,
                "created_at": self.created_at,
                "since": self.since,
                "volumes": volumes,
                "items": [item.row() for item in self.items],
                "holds": self.holds,
            },
            option=orjson.OPT_INDENT_2,
        )


def create(
    data: Path, out: Path, *, since: Path | None = None, split: int = 0, report: Report
) -> Manifest:
    """Write a bundle of what `data` holds, but for what the bundle `since` and those before it
    brought. Volumes are at most `split` bytes. Run again after it was killed, it goes on.

    Raises CarryError.
    """
    base = Manifest.read(since) if since else None
    out.mkdir(parents=True, exist_ok=True)
    if (out / _MANIFEST).exists():
        raise CarryError(f"{out} holds a bundle already. Name another folder.")
    found = {item.name: item for item in _contents(data)}
    held = base.holds if base else {}
    wanted = [item for item in found.values() if held.get(item.name) != item.digest]
    items = list(_placed(wanted))
    total = items[-1].offset + items[-1].size if items else 0
    free = shutil.disk_usage(out).free
    volumes = list(_volumes(total, split or max(total, 1)))
    done = _resumed(out, items, volumes)
    left = total - sum(one.size for one in done.values())
    if left > free:
        raise CarryError(
            f"{out} is too small: {human(left)} are to be written, and {human(free)} are free."
        )
    report(Planned(len(volumes), total))
    finished = []
    for volume in volumes:
        report(FileBegan(_REPO, volume.name, volume.size))
        sealed = done.get(volume.name) or _write(data, out, items, volume, report)
        done[volume.name] = sealed
        _draft(out, items, done.values())
        finished.append(sealed)
        report(FileDone(_REPO, volume.name, volume.size))
    manifest = Manifest(
        uuid.uuid4().hex,
        datetime.now(UTC).isoformat(),
        base.bundle_id if base else "",
        items,
        finished,
        {name: item.digest for name, item in found.items()},
    )
    write_atomically(out / _MANIFEST, manifest.render())
    (out / _DRAFT).unlink(missing_ok=True)
    return manifest


def _contents(data: Path) -> Iterator[Item]:
    """Every file that a mirror needs: proven blobs, records, refs, and what lies beside hub/."""
    cache = Cache.of(data / "hub")
    for folder in cache.folders():
        for commit in folder.recorded_commits():
            try:
                record = folder.read_record(commit)
            except (OSError, ManifestError):
                continue
            if not all(cache.has(folder, file) for file in record.files.values()):
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


def _write(data: Path, out: Path, items: Sequence[Item], volume: Volume, report: Report) -> Volume:
    partial, running = out / f"{volume.name}.partial", hashlib.sha256()
    end = volume.offset + volume.size
    written = volume.offset
    with partial.open("wb") as writer:
        for item in items:
            if item.offset + item.size <= written or item.offset >= end or item.offset > written:
                continue
            with (data / item.name).open("rb") as reader:
                reader.seek(written - item.offset)
                left = min(end, item.offset + item.size) - written
                while left and (chunk := reader.read(min(_READ, left))):
                    running.update(chunk)
                    writer.write(chunk)
                    written += len(chunk)
                    left -= len(chunk)
                    report(FileAdvanced(_REPO, volume.name, len(chunk)))
            if left:
                raise CarryError(f"{item.name} became shorter while it was read. Run it again.")
        writer.flush()
        os.fsync(writer.fileno())
    partial.replace(out / volume.name)
    sync_folder(out)
    return Volume(volume.name, volume.offset, volume.size, running.hexdigest())


def _resumed(out: Path, items: Sequence[Item], volumes: Sequence[Volume]) -> dict[str, Volume]:
    """Volumes that an earlier run finished, where it had the same to write."""
    try:
        draft = orjson.loads((out / _DRAFT).read_bytes())
        if draft["items"] != [item.row() for item in items]:
            return {}
        sums = draft["volumes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {
        one.name: Volume(one.name, one.offset, one.size, sums[one.name])
        for one in volumes
        if one.name in sums and _has_size(out / one.name, one.size)
    }


def _draft(out: Path, items: Sequence[Item], done: Iterable[Volume]) -> None:
    rows = [item.row() for item in items]
    sums = {one.name: one.sha256 for one in done}
    write_atomically(out / _DRAFT, orjson.dumps({"items": rows, "volumes": sums}))


def apply(data: Path, folder: Path, *, report: Report) -> Manifest:
    """Bring a bundle into `data`. Every volume is read and found right before anything changes.

    Run again after it was killed, it goes on. Raises CarryError, naming the volumes that are
    missing or damaged.
    """
    manifest = Manifest.read(folder)
    cache = Cache.of(data / "hub")
    _check_base(data, cache, manifest)
    _check_volumes(cache, folder, manifest, report)
    absent = {item.name: item for item in manifest.items if not _is_here(data, item)}
    needed = sum({item.digest: item.size for item in absent.values()}.values())
    free = shutil.disk_usage(cache.root).free
    if needed > free:
        raise CarryError(
            f"The disk is too small: {human(needed)} are to be written, and {human(free)} are free."
        )
    stream = _Stream(folder, manifest.volumes)
    report(Planned(len(absent), needed))
    records: list[bytes] = []
    brought: dict[str, Path] = {}
    for item in manifest.items:
        parts = item.name.split("/")
        if parts[0] == "hub" and parts[2] == "hubmirror":
            records.append(stream.read(item))
        elif item.name in absent:
            target = data / item.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if item.digest not in brought or not share(brought[item.digest], target):
                _bring(target, cache, stream, item, report)
            brought[item.digest] = target
    _publish(cache, records, report)
    shutil.rmtree(_marks(cache, manifest), ignore_errors=True)
    return manifest


def _check_base(data: Path, cache: Cache, manifest: Manifest) -> None:
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
        count = lambda size: report(FileAdvanced(_REPO, volume.name, size))  # noqa: E731
        right = _sha256(path, count) == volume.sha256
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
    staged = cache.workshop / "staging" / "bundle" / item.digest
    staged.parent.mkdir(parents=True, exist_ok=True)
    report(FileBegan(_REPO, item.name, item.size))
    stream.copy(item, staged, lambda size: report(FileAdvanced(_REPO, item.name, size)))
    kind = "sha256" if len(item.digest) == 64 else "sha1"
    if _digest(staged, item.size, kind) != item.digest:
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
    folder = cache.folder(record.repo)
    here, refs = folder.refs(), []
    for name in record.refs:
        try:
            if folder.read_record(here[name]).pulled_at > record.pulled_at:
                continue
        except (KeyError, OSError, ManifestError):
            pass
        refs.append(name)
    return refs


class _Stream:
    """The volumes of a bundle as one run of bytes."""

    def __init__(self, folder: Path, volumes: Sequence[Volume]) -> None:
        self._folder = folder
        self._volumes = volumes

    def read(self, item: Item) -> bytes:
        body = b"".join(self._chunks(item))
        if hashlib.sha256(body).hexdigest() != item.digest:
            raise CarryError(f"{item.name} is not what it was: it was damaged before bundling.")
        return body

    def copy(self, item: Item, target: Path, advanced: Callable[[int], None]) -> None:
        with target.open("wb") as writer:
            for chunk in self._chunks(item):
                writer.write(chunk)
                advanced(len(chunk))
            writer.flush()
            os.fchmod(writer.fileno(), 0o644)
            os.fsync(writer.fileno())

    def _chunks(self, item: Item) -> Iterator[bytes]:
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


def _digest(path: Path, size: int, kind: str) -> str:
    start = b"blob %d\0" % size if kind == "sha1" else b""
    running = hashlib.new(kind, start, usedforsecurity=False)
    with path.open("rb") as reader:
        while chunk := reader.read(_READ):
            running.update(chunk)
    return running.hexdigest()


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


def _item(row: dict[str, Any]) -> Item:
    return Item(_below(row["name"]), int(row["size"]), str(row["digest"]), int(row["offset"]))


def _below(name: str) -> str:
    """A path below the data folder, never above it."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or "\\" in name:
        raise ValueError(name)
    return name


def _plain(name: str) -> str:
    if "/" in name or name.startswith("."):
        raise ValueError(name)
    return name
