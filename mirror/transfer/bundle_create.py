"""Writing a bundle: what a data folder holds, as volumes with a manifest."""

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
    has_size,
    is_git_data,
    naming_errors,
    place,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from mirror.sources.repo_dir import RepoDir
    from mirror.store.progress import Report

_DRAFT = "unfinished.json"
_MAX_VOLUMES = 9999
_READ = 4 * 1024 * 1024
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
    if out.resolve().is_relative_to(data.resolve()):
        raise CarryError(f"{out} lies in the data folder itself. Name a folder on another disk.")
    base = Manifest.read(since) if since else None
    with naming_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if (out / MANIFEST).exists():
            raise CarryError(f"{out} holds a bundle already. Name another folder.")
        found = {item.name: item for item in _contents(data, report)}
        held = base.holds if base else {}
        new = (one for one in found.values() if held.get(one.name) != one.digest)
        items = list(_placed(new, {digest for name, digest in held.items() if "/blobs/" in name}))
        manifest = Manifest(
            uuid.uuid4().hex,
            datetime.now(UTC).isoformat(),
            base.bundle_id if base else "",
            base.created_at if base else "",
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
    ends = (item.offset + item.size for item in items if item.offset is not None)
    total = max(ends, default=0)
    if split and total > _MAX_VOLUMES * split:
        raise CarryError(f"That would be {total // split + 1} volumes. Choose a larger --split.")
    volumes = list(_volumes(total, split or max(total, 1)))
    done = _resumed(out, items, volumes)
    for path in out.glob(VOLUMES):
        if path.name not in done:
            path.unlink()  # of a run that was killed, or had other files
    left, free = total - sum(one.size for one in done.values()), shutil.disk_usage(out).free
    if left > free:
        raise CarryError(
            f"{out} is too small: {human(left)} are to be written, and {human(free)} are free."
        )
    report(Planned(len(volumes), total))
    writer = _Writer(data, out, items, report)
    for volume in volumes:
        report(FileBegan(VOLUMES_REPO, volume.name, volume.size))
        done[volume.name] = done.get(volume.name) or writer.write(volume)
        _draft(out, items, done.values())
        report(FileDone(VOLUMES_REPO, volume.name, volume.size))
    return [done[volume.name] for volume in volumes]


def _contents(data: Path, report: Report) -> Iterator[Item]:
    """Every file that a mirror needs: proven blobs, records, refs, and what lies beside hub/."""
    cache = Cache.of(data / "hub")
    for folder in cache.folders():
        if not folder.recorded_commits():
            text = f"{folder.repo} has no record of a pull, and is left out."
            report(Message("warning", text))
        for commit in folder.recorded_commits():
            yield from _revision(cache, folder, commit, report)
    for path in _beside_hub(data):
        name = path.relative_to(data).as_posix()
        if name.startswith("git/") and not is_git_data(name):
            continue
        try:
            place(name)
            name.encode()
        except ValueError as exc:
            raise CarryError(f"{name!r} has a name that cannot be carried. Rename it.") from exc
        yield Item(name, path.stat().st_size, sha256_of(path))


def _revision(cache: Cache, folder: RepoDir, commit: str, report: Report) -> Iterator[Item]:
    """The blobs and the record of a revision that is whole."""
    try:
        record = folder.read_record(commit)
    except (OSError, ManifestError):
        text = f"{folder.repo} at {commit[:12]}: its record is damaged; it is left out."
        report(Message("warning", text))
        return
    if not all(cache.has(folder, file) for file in record.files.values()):
        text = f"{record.repo} at {commit[:12]} is not whole here, and is left out."
        report(Message("warning", text))
        return
    base = f"hub/{folder.path.name}"
    for file in {one.etag: one for one in record.files.values()}.values():
        yield Item(f"{base}/blobs/{file.etag}", file.size, file.etag)
    path = folder.record(commit)
    yield Item(f"{base}/hubmirror/{commit}.json", path.stat().st_size, sha256_of(path))


def _beside_hub(data: Path) -> Iterator[Path]:
    """The files of all other folders, which may be links to other disks."""
    for top in sorted(data.iterdir()):
        if top.name in ("hub", "hubmirror.toml") or top.name.startswith("."):
            continue
        found = [top] if top.is_file() else [
            Path(folder) / name for folder, _, names in os.walk(top) for name in names
        ]  # fmt: skip
        yield from sorted(path for path in found if path.is_file() and not path.is_symlink())


def _placed(items: Iterable[Item], held: AbstractSet[str]) -> Iterator[Item]:
    """Each content once in the stream, but for blobs that the other side has (`held`); what others
    are found by comes last."""
    offset, places = 0, dict[tuple[str, int], int]()
    for item in sorted(items, key=_rank):
        key = (item.digest, item.size)
        if "/blobs/" in item.name and item.digest in held:
            yield replace(item, offset=None)
            continue
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
                self._report(FileAdvanced(VOLUMES_REPO, volume.name, len(chunk)))
            file.flush()
            os.fsync(file.fileno())
        partial_file.replace(self._out / volume.name)
        sync_folder(self._out)
        return replace(volume, sha256=running.hexdigest())

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
        """A file's bytes from one place of the stream to another. At its end it is compared, unless
        an earlier run began it: then it is proven when it arrives."""
        if start == offset:
            self._proof = (item, blob_hash(item.digest, item.size))
        left = min(end, offset + item.size) - start
        with (self._data / item.name).open("rb") as reader:
            reader.seek(start - offset)
            while left and (chunk := reader.read(min(_READ, left))):
                left -= len(chunk)
                if self._proof and self._proof[0] is item:
                    self._proof[1].update(chunk)
                yield chunk
        if left:
            raise CarryError(f"{item.name} became shorter while it was read. Run it again.")
        is_whole = end >= offset + item.size and self._proof and self._proof[0] is item
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
    return {one.name: done[one.name] for one in same if has_size(out / one.name, one.size)}


def _draft(out: Path, items: Sequence[Item], done: Iterable[Volume]) -> None:
    body = {"items": [item.row() for item in items], "volumes": [one.row() for one in done]}
    write_atomically(out / _DRAFT, orjson.dumps(body))
