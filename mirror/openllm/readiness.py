"""Says whether this site has everything that a model of OpenLLM needs to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.core.errors import HubmirrorError
from mirror.openllm import wheels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mirror.core.source import Source
    from mirror.openllm.closure import Closure
    from mirror.openllm.wheels import WantedWheel


def first_problem(
    source: Source,
    data: Path,
    closure: Closure,
    explain: Callable[[HubmirrorError], str] = str,
    missing: Callable[[Path, Sequence[WantedWheel]], Sequence[WantedWheel]] = wheels.missing,
) -> str:
    """The first thing that is missing; empty if nothing is. `explain` is the text of an
    error, and `missing` finds the missing wheels."""
    for model in closure.models:
        try:
            snapshot = source.snapshot(model.repo, model.revision)
        except HubmirrorError as exc:
            return explain(exc)
        for path, size in model.files.items():
            stored = snapshot.files.get(path)
            if stored is None or stored.file.size != size:
                return f"{path} of {model.repo} at {snapshot.commit_hash[:12]} is missing."
    for wheel in missing(data / "wheels", closure.wheels):
        return f"the wheel {wheel.filename} is missing or has changed since it was pulled."
    if not closure.constraints(data).is_file():
        return f"openllm/{closure.name}.txt is missing."
    return ""
