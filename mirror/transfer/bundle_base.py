"""What a bundle builds upon, and whether it is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.core.errors import CarryError
from mirror.core.files import read_regular
from mirror.core.record import MAX_SIDE_FILE, ManifestError, Record
from mirror.derived.state import write_atomically
from mirror.store.verify_digest import sha256_of
from mirror.transfer.bundle_manifest import has_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirror.store.cache import Cache
    from mirror.transfer.bundle_manifest import Manifest


def is_record(name: str) -> bool:
    return name.startswith("hub/") and "/hubmirror/" in name


def is_blob(name: str) -> bool:
    return name.startswith("hub/") and "/blobs/" in name


def places(manifest: Manifest) -> dict[str, list[str]]:
    """The names that each content of a blob has, or had, on this side."""
    found: dict[str, list[str]] = {}
    for name, etag in manifest.holds.items():
        if is_blob(name):
            found.setdefault(etag, []).append(name)
    return found


def _applied(cache: Cache) -> Path:
    """The ids of the bundles that were brought here, a line each."""
    return cache.work_dir / "bundles.applied"


def note_applied(cache: Cache, manifest: Manifest) -> None:
    known = _read_lines(_applied(cache))
    if manifest.bundle_id not in known:
        lines = "".join(f"{one}\n" for one in (*known, manifest.bundle_id))
        write_atomically(_applied(cache), lines.encode())


def _read_lines(file: Path) -> list[str]:
    try:
        return read_regular(file, MAX_SIDE_FILE).decode().split()
    except (FileNotFoundError, UnicodeDecodeError):
        return []


def check_base(data: Path, cache: Cache, manifest: Manifest) -> None:
    """Whether the bundle that this one builds upon was brought here: by its id, or by all that it
    held and this one does not change."""
    if not manifest.since or manifest.since in _read_lines(_applied(cache)):
        return
    new = {item.name for item in manifest.items}
    names = (name for name in manifest.holds if name not in new)
    _refuse(manifest, [name for name in names if not _holds(data, manifest, name)])


def check_blobs(data: Path, manifest: Manifest, records: Sequence[Record]) -> None:
    """Whether the blobs of the bundle's own revisions that it does not carry are here: others may
    have been removed."""
    carried = {item.name: item.size for item in manifest.items if item.offset is not None}
    wanted = {
        f"hub/{record.repo.folder_name}/blobs/{file.etag}": file
        for record in records
        for file in record.files.values()
    }
    elsewhere = places(manifest)
    absent = []
    for name, file in wanted.items():
        if carried.get(name, file.size) != file.size:
            raise CarryError(
                f"A record in the bundle lists {file.path} with {file.size} bytes, and the bundle "
                f"carries {carried[name]} bytes. Nothing was changed; create the bundle again."
            )
        names = (name, *elsewhere.get(file.etag, ()))
        if name not in carried and not any(has_size(data / one, file.size) for one in names):
            absent.append(name)
    _refuse(manifest, absent)


def _refuse(manifest: Manifest, absent: Sequence[str]) -> None:
    if absent:
        raise CarryError(
            f"This bundle builds upon that of {manifest.since_created_at[:16]} ({manifest.since}), "
            f"and {len(absent)} files of that are not here (the first is {absent[0]}). Apply that "
            "one first."
        )


def _holds(data: Path, manifest: Manifest, name: str) -> bool:
    """Whether a file of the base is here as it was then; a record may be of a later pull."""
    path = data / name
    if is_blob(name):
        return path.is_file()
    if not path.is_file():
        return False
    if sha256_of(path) == manifest.holds[name]:
        return True
    try:
        is_later = (
            Record.parse(read_regular(path, MAX_SIDE_FILE)).pulled_at.isoformat()
            > manifest.since_created_at
        )
    except ManifestError:
        return False
    return is_record(name) and is_later
