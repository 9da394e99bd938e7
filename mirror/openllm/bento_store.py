"""Entries of a Bento store, written by BentoML itself from what the mirror holds.

Each is made in a folder of its own beside the store, and gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
import orjson
from bentoml._internal.models import ModelStore
from bentoml.models import ModelContext

from mirror.core.errors import ConfigError
from mirror.core.files import read_regular, remove_tree
from mirror.core.record import render_files
from mirror.core.repo import RepoType
from mirror.derived.state import sync_folder, write_atomically
from mirror.sources.bento_entry import ORIGIN, entries
from mirror.store.cache import share
from mirror.store.verify_digest import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mirror.core.source import Snapshot
    from mirror.sources.bento_entry import Entry

_MAX_CONFIG = 8 * 1024 * 1024
_LONGEST_NAME = 63  # BentoML's own (`bentoml._internal.tag`)
BACKENDS = ("pt", "vllm", "ctranslate", "triton", "ggml")


@dataclass(frozen=True, slots=True)
class Form:
    """What one generation of OpenLLM looks for in an entry."""

    name: str
    module: str = ""
    api_version: str = "v1"
    backend: str = ""
    is_free: bool = True
    """Whether OpenLLM takes an entry of any other name as well."""

    @classmethod
    def of(cls, generation: str, repo_id: str, backend: str, name: str = "") -> Form:
        """`generation` is `openllm-0.4` or `openllm-0.5`; `name` replaces the derived one.

        0.4 asks for `{backend}-{name}` (`openllm_core.utils.normalise_model_name`), and compares
        the label `backend`. 0.5 takes any tag, and ignores the rest. Raises ConfigError for a
        `name` that 0.4 would not ask for.
        """
        derived = repo_id.lower().replace("/", "--").replace("_", "-")
        if generation == "openllm-0.4":
            if name:
                raise ConfigError(
                    "OpenLLM 0.4 makes the tag from the repo id, and looks for no other: --tag is "
                    "for openllm-0.5."
                )
            module = "openllm.serialisation.transformers"
            return cls(f"{backend}-{derived}", module, "v2.1.0", backend, is_free=False)
        return cls(name.lower() or derived)

    @property
    def advice(self) -> str:
        """What to do where the name cannot be had."""
        if self.is_free:
            return "Choose another with --tag, and give that one to OpenLLM."
        return "OpenLLM 0.4 looks for no other: serve the model by 0.5, with --tag."


def add(home: Path, snapshot: Snapshot, revision: str, form: Form) -> str:
    """Write an entry; its tag. Files are hard links where that can be. One that is there and is
    not just so, since a pull has widened the revision or somebody changed it, is replaced.

    Raises ConfigError where the name is none, or belongs to another repository.
    """
    _check_name(home, snapshot, form)
    if "model.yaml" in snapshot.files:
        raise ConfigError(
            f"{snapshot.repo} has a file model.yaml, where BentoML keeps its own: it cannot be an "
            "entry of a Bento store."
        )
    version = snapshot.commit_hash
    tag = f"{form.name}:{version}"
    labels = _labels(snapshot, form)
    for entry in entries(home):
        if entry.tag == tag and _is_so(entry, snapshot, revision, labels):
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
        with bentoml.models.create(
            tag,
            module=form.module,
            api_version=form.api_version,
            labels=labels,
            metadata={"_revision": snapshot.commit_hash, ORIGIN: origin},
            signatures={},
            context=ModelContext(framework_name="transformers", framework_versions={}),
            _model_store=ModelStore(staging),
        ):
            pass
        folder = staging / form.name / version
        for path, stored in snapshot.files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if not share(Path(stored.location), place):
                raise ConfigError(f"{path} of {snapshot.repo} cannot be read.")
        _publish(home, folder, form.name, version)
    return tag


def _is_so(entry: Entry, snapshot: Snapshot, revision: str, labels: Mapping[str, str]) -> bool:
    """Whether an entry is what would be written; files that are no links to the mirror's are
    read."""
    files = {path: stored.file for path, stored in snapshot.files.items()}
    told = (entry.files, entry.revision, dict(entry.labels)) == (files, revision, dict(labels))
    return (
        told
        and not entry.changes()
        and all(
            (entry.folder / path).samefile(stored.location)
            or digest(entry.folder / path, stored.file.etag, stored.file.size) == stored.file.etag
            for path, stored in snapshot.files.items()
        )
    )


def export(home: Path, tag: str, out: Path) -> Path:
    """Write an entry as a `.bentomodel`, which BentoML imports anywhere."""
    with _bentoml(f"{tag} cannot be exported", "`hubmirror ls` shows tags"):
        store = ModelStore(home / "models")
        return Path(bentoml.models.export_model(tag, str(out.absolute()), _model_store=store))


def import_(home: Path, file: Path) -> str:
    """Bring a `.bentomodel` into the store; its tag."""
    with _staged(home) as staging:
        with _bentoml(f"{file} is no .bentomodel that can be read", "Export it again"):
            store = ModelStore(staging)
            tag = bentoml.models.import_model(str(file.absolute()), _model_store=store).tag
        name, version = tag.name, str(tag.version)
        if (home / "models" / name / version).exists():
            raise ConfigError(f"{tag} is in the store already. Remove it first.")
        _publish(home, staging / name / version, name, version)
    return f"{name}:{version}"


@contextlib.contextmanager
def _bentoml(what: str, hint: str) -> Iterator[None]:
    """Turns what BentoML raises, and with it tarfile, lzma and yaml, into a ConfigError."""
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    try:
        yield
    except Exception as exc:
        cause = str(exc) or type(exc).__name__
        raise ConfigError(f"{what}: {cause.rstrip('.')}. {hint}.") from exc


def _check_name(home: Path, snapshot: Snapshot, form: Form) -> None:
    if len(form.name) > _LONGEST_NAME:
        raise ConfigError(
            f"{form.name} has {len(form.name)} characters, and BentoML takes {_LONGEST_NAME}. "
            f"{form.advice}"
        )
    with _bentoml(f"{form.name} is no tag that BentoML takes", "Choose another with --tag"):
        bentoml.Tag(form.name, snapshot.commit_hash)
    for entry in entries(home):
        is_told = not entry.derived or snapshot.repo.repo_type is not RepoType.MODEL
        if entry.tag.partition(":")[0] == form.name and is_told and not entry.holds(snapshot.repo):
            raise ConfigError(
                f"The tag {form.name} is that of {entry.repo}, and would be that of "
                f"{snapshot.repo} as well: BentoML's names keep neither the type, nor case, nor "
                f"every character. {form.advice}"
            )


def _labels(snapshot: Snapshot, form: Form) -> dict[str, str]:
    if not form.backend:
        return {}
    named = _config(snapshot).get("architectures")
    return {
        "backend": form.backend,
        "framework": "transformers",
        "model_name": str(_config(snapshot).get("model_type", "")),
        "architecture": str(named[0]) if named and isinstance(named, list) else "",
        "serialisation": "safetensors",
    }


def _config(snapshot: Snapshot) -> dict[str, Any]:
    stored = snapshot.files.get("config.json")
    try:
        config = orjson.loads(read_regular(stored.location, _MAX_CONFIG)) if stored else {}
    except (OSError, orjson.JSONDecodeError):
        return {}
    return config if isinstance(config, dict) else {}


@contextlib.contextmanager
def _staged(home: Path) -> Iterator[Path]:
    """A folder for one entry under way, on the store's file system."""
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
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
