"""Opens the declared sources and the state folder."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.config.settings import DEFAULT_DATA
from mirror.config.specs import SourceSpec
from mirror.core.errors import ConfigError
from mirror.core.presence import device_of
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.bento import BentoStore
from mirror.sources.first_found import FirstFound
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from mirror.sources.wrong_level import is_cache, wrong_level

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("hubmirror")


@dataclass(frozen=True, slots=True)
class OpenedSources:
    """The open sources, the data folder if there is one, and the state folder. `scratch` is the
    state folder if it is temporary."""

    sources: FirstFound
    state: State
    digests: Digests
    data: Path | None = None
    scratch: Path | None = None

    def devices(self) -> tuple[str, ...]:
        """The folders that are served, and the device of each, for `parse_devices`."""
        folders = [self.data, *(source.root for source in self.sources.sources)]
        return tuple(
            f"{device} {folder}"
            for folder in folders
            if folder and (device := device_of(folder)) is not None
        )

    def close(self) -> None:
        """Stop the computation of digests, and remove the temporary folder."""
        self.digests.close()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def open_sources(
    data: Path,
    state: Path | None,
    declared: Sequence[SourceSpec],
    *,
    timeout_s: float = 5.0,
    devices: Mapping[str, int] | None = None,
) -> OpenedSources:
    """The sources in the order in which they are asked: the managed hub/ of `data`, those that
    were declared, and a Bento store in bentoml/ of `data`. One that is declared for the same folder
    takes its place. Those of `data` may come later.

    Raises ConfigError where a folder is not there. `devices` says on which devices the folders were
    when the server started.
    """
    specs, devices = list(declared), devices or {}
    check_not_away(data, devices)
    _check_data(data, is_alone=not declared)
    hub = data / "hub"
    if data.is_dir() and not any(spec.path.resolve() == hub.resolve() for spec in specs):
        specs.insert(0, SourceSpec("managed", hub))
    store = data / "bentoml"
    if data.is_dir() and not any(spec.path.resolve() == store.resolve() for spec in specs):
        specs.append(SourceSpec("bento", store))
    _check_folders(data, specs, declared)
    folder, scratch = _state_folder(data, state), None
    if folder is None:
        folder = scratch = _temporary_state()
    kept = State(folder, data if data.is_dir() else None)
    digests = Digests(kept, timeout_s=timeout_s)
    sources = [_open(spec, digests) for spec in specs]
    for source in sources:
        source.presence.expect(devices.get(str(source.root)))
    return OpenedSources(
        FirstFound(sources), kept, digests, data if data.is_dir() else None, scratch
    )


def _check_data(data: Path, *, is_alone: bool) -> None:
    if not data.is_dir() and (is_alone or data != DEFAULT_DATA):
        raise ConfigError(
            f"The data folder {data} is not there. Create it, name another with --data, or serve "
            "an existing cache with --source hf-cache:FOLDER."
        )
    if is_cache(data) and not (data / "hub").is_dir():
        raise ConfigError(
            f"{data} is an HF cache, not a data folder. Write --source hf-cache:{data}, or name "
            "another data folder with --data."
        )


def _check_folders(data: Path, specs: Sequence[SourceSpec], declared: Sequence[SourceSpec]) -> None:
    for spec in specs:
        may_come = spec.path in (data / "hub", data / "bentoml") and not spec.path.exists()
        if not spec.path.is_dir() and not may_come:
            raise ConfigError(
                f"The source {spec} does not exist, or is not a folder. Check its path, and that "
                "its disk is mounted."
            )
    for spec in declared:
        if text := wrong_level(spec):
            raise ConfigError(f"The source {spec} has no repository. {text}")


def parse_devices(texts: Sequence[str]) -> dict[str, int]:
    """The folders of `OpenedSources.devices`, each with its device."""
    pairs = (text.partition(" ") for text in texts)
    return {folder: int(device) for device, _, folder in pairs}


def check_not_away(data: Path, devices: Mapping[str, int]) -> None:
    """Raises ConfigError if the data folder is on another device than before, and empty: its disk
    is not mounted. Nothing must be written to the mount point."""
    before = devices.get(str(data))
    if before in (None, device_of(data)):
        return
    if not data.is_dir() or not any(data.iterdir()):
        raise ConfigError(
            f"The data folder {data} is away: it was on another device when the server started. "
            "Mount its disk."
        )


def _open(spec: SourceSpec, digests: Digests) -> Folder | BentoStore | HfCache:
    if spec.repo is not None:
        return Folder(spec.path, spec.repo, digests, label=str(spec))
    if spec.kind == "bento":
        return BentoStore(spec.path, digests, label=str(spec))
    return HfCache(spec.path, digests, managed=spec.kind == "managed", label=str(spec))


def _state_folder(data: Path, chosen: Path | None) -> Path | None:
    """The folder for derived facts; None where data is read-only and none is chosen."""
    folder = chosen or data / ".hubmirror"
    try:
        folder.mkdir(parents=chosen is not None, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError as exc:
        if chosen:
            raise ConfigError(f"The state folder {folder} cannot be made: {exc.strerror}.") from exc
    if chosen:
        raise ConfigError(f"The state folder {folder} cannot be written.")
    return None


def _temporary_state() -> Path:
    """A folder for derived facts that is removed when this process ends."""
    log.warning(
        "The data folder is read-only: derived facts go to a temporary folder, and are computed "
        "again after a restart. Name a folder with --state to keep them."
    )
    folder = Path(tempfile.mkdtemp(prefix="hubmirror-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
