"""Adds snapshots of the mirror to a Bento store, and exports and imports its entries.

BentoML writes each entry in a staging folder; a complete entry is moved into the store by a rename.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.errors import ConfigError
from mirror.core.files import read_regular, remove_tree
from mirror.core.record import render_files
from mirror.core.repo import RepoType
from mirror.core.source import local_path
from mirror.derived.state import sync_folder, write_atomically
from mirror.openllm import bentoml_adapter
from mirror.sources.bento_entry import ORIGIN, entries
from mirror.store.cache import share
from mirror.store.verify_digest import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mirror.core.source import Snapshot
    from mirror.sources.bento_entry import Entry

_MAX_CONFIG = 8 * 1024 * 1024
_MAX_TAGS = 30  # in a message
_MAX_NAME_LENGTH = 63  # the limit of `bentoml._internal.tag`
BACKENDS = ("pt", "vllm", "ctranslate", "triton", "ggml")


@dataclass(frozen=True, slots=True)
class EntryFormat:
    """The name and the metadata that a generation of OpenLLM expects of an entry.

    `accepts_any_name` says whether OpenLLM finds an entry with another name too.
    """

    name: str
    module: str = ""
    api_version: str = "v1"
    backend: str = ""
    accepts_any_name: bool = True

    @classmethod
    def of(cls, generation: str, repo_id: str, backend: str, name: str = "") -> EntryFormat:
        """The format for a `generation`, which is `openllm-0.4` or `openllm-0.5`.

        `name` replaces the name that is derived from `repo_id`. OpenLLM 0.4 looks up
        `{backend}-{name}`, with the name from `openllm_core.utils.normalise_model_name`, and
        compares the label `backend`. OpenLLM 0.5 accepts any tag and does not read the labels.
        Raises ConfigError for a `name` with openllm-0.4.
        """
        derived = repo_id.lower().replace("/", "--").replace("_", "-")
        if generation == "openllm-0.4":
            if name:
                raise ConfigError(
                    "OpenLLM 0.4 derives the tag from the repo_id and does not look up another. "
                    "Use --tag with openllm-0.5 only."
                )
            module = "openllm.serialisation.transformers"
            return cls(f"{backend}-{derived}", module, "v2.1.0", backend, accepts_any_name=False)
        return cls(name.lower() or derived)

    @property
    def advice(self) -> str:
        """The next step for an operator if the name cannot be used."""
        if self.accepts_any_name:
            return "Choose another name with --tag, and pass that name to OpenLLM."
        return "OpenLLM 0.4 does not look up another name: serve the model with 0.5 and --tag."


def add(home: Path, snapshot: Snapshot, revision: str, entry_format: EntryFormat) -> str:
    """Write an entry for a snapshot, and return its tag.

    Its files are hard links to the mirror's blobs, or copies on another file system. An existing
    entry is replaced if it differs: a later pull fetched more files of the revision, or another
    process changed the entry. Raises ConfigError if the name is not valid or belongs to another
    repository.
    """
    _check_name(home, snapshot, entry_format)
    if "model.yaml" in snapshot.files:
        raise ConfigError(
            f"{snapshot.repo} cannot be an entry of a Bento store: it has a file model.yaml, and "
            "BentoML writes its own model.yaml. Serve this repository from the hub."
        )
    version = snapshot.commit_hash
    tag = f"{entry_format.name}:{version}"
    labels = _labels(snapshot, entry_format)
    for entry in entries(home):
        if entry.tag == tag and _is_up_to_date(entry, snapshot, revision, labels):
            write_atomically(entry.folder.parent / "latest", version.encode())
            return tag
    origin = {
        "repo_id": snapshot.repo.repo_id,
        "repo_type": snapshot.repo.repo_type.value,
        "revision": revision,
        "commit_hash": snapshot.commit_hash,
        "whole": snapshot.whole and not snapshot.absent,
        "files": render_files(stored.file for stored in snapshot.files.values()),
    }
    with _staged(home) as staging:
        bentoml_adapter.create(
            staging,
            tag,
            module=entry_format.module,
            api_version=entry_format.api_version,
            labels=labels,
            metadata={"_revision": snapshot.commit_hash, ORIGIN: origin},
        )
        folder = staging / entry_format.name / version
        for path, stored in snapshot.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not share(local_path(stored), target):
                raise ConfigError(
                    f"{path} of {snapshot.repo} cannot be read. Run `hubmirror verify`."
                )
        _publish(home, folder, entry_format.name, version)
    return tag


def _is_up_to_date(
    entry: Entry, snapshot: Snapshot, revision: str, labels: Mapping[str, str]
) -> bool:
    """Whether an entry equals the entry that `add` writes.

    The digest of a file is computed unless the file is a hard link to the mirror's blob.
    """
    files = {path: stored.file for path, stored in snapshot.files.items()}
    expected = (files, revision, dict(labels))
    return (
        (entry.files, entry.revision, dict(entry.labels)) == expected
        and not entry.changes()
        and all(
            (entry.folder / path).samefile(local_path(stored))
            or digest(entry.folder / path, stored.file.etag, stored.file.size) == stored.file.etag
            for path, stored in snapshot.files.items()
        )
    )


def export(home: Path, tag: str, out: Path) -> Path:
    """Write an entry to a `.bentomodel` file, and return its path. Raises ConfigError."""
    tags = ", ".join(entry.tag for entry in entries(home)[:_MAX_TAGS])
    next_step = f"The store has: {tags}" if tags else f"The store {home} has no entries"
    return bentoml_adapter.export(home / "models", tag, out, next_step)


def import_(home: Path, file: Path) -> str:
    """Import a `.bentomodel` file into the store, and return its tag. Raises ConfigError."""
    with _staged(home) as staging:
        name, version = bentoml_adapter.import_(staging, file)
        if (home / "models" / name / version).exists():
            raise ConfigError(f"{name}:{version} is already in the store. Remove it first.")
        _publish(home, staging / name / version, name, version)
    return f"{name}:{version}"


def _check_name(home: Path, snapshot: Snapshot, entry_format: EntryFormat) -> None:
    if len(entry_format.name) > _MAX_NAME_LENGTH:
        raise ConfigError(
            f"{entry_format.name} has {len(entry_format.name)} characters, and BentoML accepts "
            f"{_MAX_NAME_LENGTH}. "
            f"{entry_format.advice}"
        )
    bentoml_adapter.check_tag(entry_format.name, snapshot.commit_hash)
    for entry in entries(home):
        # The repo_id of a derived entry is only a guess, and it is always a model.
        has_known_repo = not entry.derived or snapshot.repo.repo_type is not RepoType.MODEL
        has_this_name = entry.tag.partition(":")[0] == entry_format.name
        if has_this_name and has_known_repo and not entry.holds(snapshot.repo):
            raise ConfigError(
                f"The tag {entry_format.name} belongs to {entry.repo}, and {snapshot.repo} has the "
                "same tag: a BentoML name does not keep the repo_type, the case and some "
                f"characters. {entry_format.advice}"
            )


def _labels(snapshot: Snapshot, entry_format: EntryFormat) -> dict[str, str]:
    if not entry_format.backend:
        return {}
    architectures = _config(snapshot).get("architectures")
    return {
        "backend": entry_format.backend,
        "framework": "transformers",
        "model_name": str(_config(snapshot).get("model_type", "")),
        "architecture": str(architectures[0])
        if architectures and isinstance(architectures, list)
        else "",
        "serialisation": "safetensors",
    }


def _config(snapshot: Snapshot) -> dict[str, Any]:
    stored = snapshot.files.get("config.json")
    try:
        config = orjson.loads(read_regular(local_path(stored), _MAX_CONFIG)) if stored else {}
    except (OSError, orjson.JSONDecodeError):
        return {}
    return config if isinstance(config, dict) else {}


@contextlib.contextmanager
def _staged(home: Path) -> Iterator[Path]:
    """A staging folder for one entry, on the file system of the store."""
    staging = home / f".hubmirror-{uuid.uuid4().hex}"
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        remove_tree(staging)


def _publish(home: Path, folder: Path, name: str, version: str) -> None:
    target = home / "models" / name / version
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        target.rename(folder.with_name(f"{version}.old"))
    folder.replace(target)
    sync_folder(target.parent)
    write_atomically(target.parent / "latest", version.encode())
