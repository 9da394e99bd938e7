"""Checks the volumes of a bundle against its manifest."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError
from mirror.derived.state import write_atomically
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Planned
from mirror.store.verify_digest import digest
from mirror.store.worker_pool import results, threads
from mirror.transfer.bundle_manifest import VOLUMES_REPO, Manifest, Volume, has_size

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.store.progress import Report


def check_volumes(
    folder: Path, manifest: Manifest, report: Report, marks: Path | None = None
) -> None:
    """Raise CarryError if a volume is missing or its digest does not match.

    `marks` is a folder with a mark for each checked volume, for a run that continues.
    """
    volumes = manifest.volumes
    missing = [volume.name for volume in volumes if not (folder / volume.name).is_file()]
    if missing:
        raise CarryError(
            f"Volumes are missing: {', '.join(missing)}. Nothing was changed. Copy them again."
        )
    resized = [volume.name for volume in volumes if not has_size(folder / volume.name, volume.size)]
    if resized:
        raise CarryError(
            f"Volumes have a wrong size: {', '.join(resized)}. Nothing was changed. Copy them "
            "again."
        )
    report(Planned(len(volumes), sum(volume.size for volume in volumes)))
    with threads(os.cpu_count() or 1, "volumes") as pool:
        matched = results(pool, partial(_matches, folder, marks, report), volumes)
    damaged = [volume.name for volume, is_ok in zip(volumes, matched, strict=True) if not is_ok]
    if damaged:
        raise CarryError(
            f"Volumes are damaged: {', '.join(damaged)}. Nothing was changed. Copy them again."
        )


def _matches(folder: Path, marks: Path | None, report: Report, volume: Volume) -> bool:
    path, mark = folder / volume.name, marks / volume.name if marks else None
    stamp = f"{path.stat().st_mtime_ns} {volume.size} {volume.sha256}"
    if mark and mark.exists() and mark.read_text() == stamp:
        return True
    report(FileBegan(VOLUMES_REPO, volume.name, volume.size))
    advanced = partial(FileAdvanced, VOLUMES_REPO, volume.name)
    found = digest(path, volume.sha256, volume.size, lambda size: report(advanced(size)))
    report(FileDone(VOLUMES_REPO, volume.name, volume.size))
    if mark and found == volume.sha256:
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(mark, stamp.encode())
    return found == volume.sha256
