"""Checks that the data folder has the base of a bundle: the bundle that `--since` named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.core.errors import CarryError
from mirror.core.files import read_regular
from mirror.core.record import MAX_SIDE_FILE, ManifestError, Record
from mirror.core.units import several
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


def blob_paths(manifest: Manifest) -> dict[str, list[str]]:
    """The paths of each blob by digest; the base bundles wrote the blob to at least one of them."""
    paths: dict[str, list[str]] = {}
    for name, etag in manifest.holds.items():
        if is_blob(name):
            paths.setdefault(etag, []).append(name)
    return paths


def _applied(cache: Cache) -> Path:
    """The file with the ids of the applied bundles, one per line."""
    return cache.work_dir / "bundles.applied"


def note_applied(cache: Cache, manifest: Manifest) -> None:
    """Remember that a bundle was applied to this data folder."""
    known = _read_lines(_applied(cache))
    if manifest.bundle_id not in known:
        lines = "".join(f"{bundle_id}\n" for bundle_id in (*known, manifest.bundle_id))
        write_atomically(_applied(cache), lines.encode())


def _read_lines(file: Path) -> list[str]:
    try:
        return read_regular(file, MAX_SIDE_FILE).decode().split()
    except (FileNotFoundError, UnicodeDecodeError):
        return []


def check_base(data: Path, cache: Cache, manifest: Manifest) -> None:
    """Raise CarryError unless the base bundle was applied: its id is known, or all its files that
    this bundle does not replace are present."""
    if not manifest.since or manifest.since in _read_lines(_applied(cache)):
        return
    new = {item.name for item in manifest.items}
    names = (name for name in manifest.holds if name not in new)
    _raise_if_absent(manifest, [name for name in names if not _has_base_file(data, manifest, name)])


def check_blobs(data: Path, manifest: Manifest, records: Sequence[Record]) -> None:
    """Raise CarryError if the data folder lacks a blob that the records of the bundle want and the
    bundle does not contain. Blobs of other revisions may have been removed."""
    included = {item.name: item.size for item in manifest.items if item.offset is not None}
    wanted = {
        f"hub/{record.repo.folder_name}/blobs/{file.etag}": file
        for record in records
        for file in record.files.values()
    }
    paths = blob_paths(manifest)
    absent = []
    for name, file in wanted.items():
        if included.get(name, file.size) != file.size:
            raise CarryError(
                f"A record in the bundle lists {file.path} with {file.size} bytes, but the bundle "
                f"contains {included[name]} bytes. Nothing was changed. Create the bundle again."
            )
        candidates = (name, *paths.get(file.etag, ()))
        is_present = any(has_size(data / candidate, file.size) for candidate in candidates)
        if name not in included and not is_present:
            absent.append(name)
    _raise_if_absent(manifest, absent)


def _raise_if_absent(manifest: Manifest, absent: Sequence[str]) -> None:
    if absent:
        raise CarryError(
            f"This bundle needs the bundle {manifest.since} of {manifest.since_created_at[:16]}, "
            f"but this data folder lacks {several(len(absent), 'file')} of it (first: "
            f"{absent[0]}). Apply the bundle {manifest.since} first."
        )


def _has_base_file(data: Path, manifest: Manifest, name: str) -> bool:
    """Whether the data folder has a file of the base unchanged, or a record of a later pull."""
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
