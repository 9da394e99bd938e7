"""Recognizes a folder that was declared as a source one level off, or as the wrong kind."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.repo import Repo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.config.specs import SourceSpec

_MAX_ENTRIES = 1000
_MAX_ANCESTORS = 4
_WEIGHTS = ("config.json", "model.safetensors", "model.safetensors.index.json", "modules.json")


def wrong_level(spec: SourceSpec) -> str:
    """What the folder of a source seems to be instead, and the declaration to write. Empty if
    it may be what was declared."""
    path = Path(os.path.abspath(spec.path))
    if not os.access(path, os.R_OK | os.X_OK):
        return ""
    if spec.kind == "bento":
        return _not_bento(path)
    if spec.kind == "folder":
        return _not_plain(path, spec)
    return _not_cache(path)


def is_cache(path: Path) -> bool:
    """Whether a folder has repositories in the layout of an HF cache."""
    return any(Repo.from_folder_name(name) for name in _names(path))


def _not_cache(path: Path) -> str:
    if is_cache(path):
        return ""
    if is_cache(path / "hub"):
        return f"{path} is the folder above a cache. Write --source hf-cache:{path / 'hub'}"
    if cache := _cache_of(path):
        return f"{path} is a part of one repository of a cache. Write --source hf-cache:{cache}"
    for models in (path / "models", path / "hub" / "models", path):
        if found := next(_modelscope(models), None):
            repo_id = "/".join(found.parts[-2:])
            return (
                f"{path} is a cache of ModelScope, whose repositories are plain folders. Write "
                f"--source folder:{found}={repo_id}"
            )
    if _is_bento(path / "models"):
        return f"{path} is a Bento store. Write --source bento:{path}"
    if any((path / name).is_file() for name in _WEIGHTS):
        return f"{path} is the folder of one model. Write --source folder:{path}=ORG/NAME"
    return ""


def _not_bento(path: Path) -> str:
    if path.name == "models" and _is_bento(path):
        return f"{path} is a part of a Bento store. Write --source bento:{path.parent}"
    if is_cache(path):
        return f"{path} is an HF cache. Write --source hf-cache:{path}"
    return ""


def _not_plain(path: Path, spec: SourceSpec) -> str:
    if is_cache(path):
        return f"{path} is an HF cache with its own repositories. Write --source hf-cache:{path}"
    cache = _cache_of(path)
    if cache and any(entry.is_symlink() for entry in _entries(path)):
        return (
            f"{path} is a part of an HF cache, and its files are symlinks to other folders. Write "
            f"--source hf-cache:{cache} in place of {spec}"
        )
    return ""


def _cache_of(path: Path) -> Path | None:
    """The cache that has this folder inside one of its repositories; None if there is none."""
    for folder in itertools.islice((path, *path.parents), _MAX_ANCESTORS):
        if Repo.from_folder_name(folder.name) and (folder / "snapshots").is_dir():
            return folder.parent
    return None


def _modelscope(models: Path) -> Iterator[Path]:
    """The repositories in the `models` folder of a ModelScope cache: ORG/NAME with a `.msc`."""
    for owner in _names(models):
        for name in _names(models / owner):
            if any((models / owner / name / mark).exists() for mark in (".msc", ".mdl")):
                yield models / owner / name


def _is_bento(models: Path) -> bool:
    """Whether a folder has entries NAME/VERSION/model.yaml."""
    return any(
        (models / name / version / "model.yaml").is_file()
        for name in itertools.islice(_names(models), 20)
        for version in itertools.islice(_names(models / name), 20)
    )


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(itertools.islice(entries, _MAX_ENTRIES))
    except OSError:
        return []
