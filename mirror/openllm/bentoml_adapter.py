"""Calls BentoML: writes, exports and imports entries of a Bento store, and checks tags.

It is the only module that imports bentoml. It uses these private parts of BentoML, because the
public functions can only write to the store of the process, BENTOML_HOME:

- `bentoml._internal.models.ModelStore`: a store in any folder;
- the parameter `_model_store` of `bentoml.models.create`, `export_model` and `import_model`.

`missing_parts` compares them with the installed version.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
import bentoml.models

from mirror.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_STORE_MODULE = "bentoml._internal.models"
_PARAMETER = "_model_store"
_FUNCTIONS = ("create", "export_model", "import_model")


def check_version() -> None:
    """Raise ConfigError if the installed BentoML lacks a part that this module uses."""
    if missing := missing_parts():
        version = importlib.metadata.version("bentoml")
        raise ConfigError(
            f"BentoML {version} cannot be used: it has no {', and no '.join(missing)}. Install a "
            "supported version: pip install 'hubmirror[bentoml]'."
        )


def missing_parts() -> list[str]:
    """The names of the parts that the installed BentoML lacks; empty if it has all."""
    missing = [] if _store_class() else [f"{_STORE_MODULE}.ModelStore"]
    missing += [f"bentoml.{name}" for name in ("Tag",) if not hasattr(bentoml, name)]
    if not hasattr(bentoml.models, "ModelContext"):
        missing.append("bentoml.models.ModelContext")
    for name in _FUNCTIONS:
        function = getattr(bentoml.models, name, None)
        if function is None:
            missing.append(f"bentoml.models.{name}")
        elif _PARAMETER not in inspect.signature(function).parameters:
            missing.append(f"parameter {_PARAMETER} of bentoml.models.{name}")
    return missing


def check_tag(name: str, version: str) -> None:
    """Raise ConfigError if BentoML does not accept the tag `name:version`."""
    with _errors(f"{name} is not a valid BentoML tag", "Choose another name with --tag"):
        bentoml.Tag(name, version)


def create(
    folder: Path,
    tag: str,
    *,
    module: str,
    api_version: str,
    labels: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> None:
    """Write an entry without files to `folder/<name>/<version>`."""
    _disable_tracking()
    with bentoml.models.create(
        tag,
        module=module,
        api_version=api_version,
        labels=dict(labels),
        metadata=dict(metadata),
        signatures={},
        context=bentoml.models.ModelContext(framework_name="transformers", framework_versions={}),
        _model_store=_store(folder),
    ):
        pass


def export(folder: Path, tag: str, out: Path, next_step: str) -> Path:
    """Write the entry `tag` of the store `folder` to a `.bentomodel` file, and return its path.

    Raises ConfigError, which ends with `next_step`.
    """
    with _errors(f"{tag} cannot be exported", next_step):
        store = _store(folder)
        return Path(bentoml.models.export_model(tag, str(out.absolute()), _model_store=store))


def import_(folder: Path, file: Path) -> tuple[str, str]:
    """Import a `.bentomodel` file into the store `folder`, and return its name and its version.

    Raises ConfigError.
    """
    with _errors(f"{file} is not a valid .bentomodel file", "Export it again"):
        store = _store(folder)
        tag = bentoml.models.import_model(str(file.absolute()), _model_store=store).tag
    return tag.name, str(tag.version)


def _store_class() -> Any:
    try:
        return getattr(importlib.import_module(_STORE_MODULE), "ModelStore", None)
    except ImportError:
        return None


def _store(folder: Path) -> Any:
    return _store_class()(folder)


def _disable_tracking() -> None:
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"


@contextlib.contextmanager
def _errors(problem: str, next_step: str) -> Iterator[None]:
    """Turn every exception of BentoML, tarfile, lzma and yaml into a ConfigError."""
    _disable_tracking()
    try:
        yield
    except Exception as exc:
        cause = str(exc) or type(exc).__name__
        raise ConfigError(f"{problem}: {cause.rstrip('.')}. {next_step}.") from exc
