"""What lies beside the models: git repositories, and wheels.

git/<host>/<owner>/<repo>.git   bare repositories, under the address that they have upstream
wheels/*.whl                    what virtual environments are made of
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mirror.core.errors import NotOfferedError, UnavailableError
from mirror.core.files import inside, read_regular
from mirror.derived.digests import DigestJob
from mirror.openllm import git_view
from mirror.openllm.git_view import UnsafeRepositoryError
from mirror.openllm.wheel_metadata import metadata, requires_python, wheel_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.derived.digests import Digests

_PART = re.compile(r"(?!\.)[\w.-]{1,100}", re.ASCII)
_MAX_CONSTRAINTS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of a project; `sha256` in hex, `requires_python` as its metadata has it."""

    filename: str
    location: Path
    size: int
    sha256: str
    requires_python: str
    has_metadata: bool


@dataclass(frozen=True, slots=True)
class OpenLLMFiles:
    """Both, below the data folder. All methods block."""

    data: Path
    digests: Digests

    def git(self, views: Path, host: str, owner: str, name: str) -> Path:
        """A view of a bare repository, in the folder `views`, which git may be run on. Raises
        NotOfferedError, and UnavailableError where the repository is not safe to read."""
        name = name.removesuffix(".git")
        parts = (host, owner, name)
        folder = self.data / "git" / host / owner / f"{name}.git"
        if not all(map(_PART.fullmatch, parts)) or not os.path.lexists(folder / "HEAD"):
            raise NotOfferedError(f"{'/'.join(parts)[:200]} is no git repository of this mirror.")
        try:
            return git_view.kept(folder, self.data / "git", views)
        except (UnsafeRepositoryError, OSError) as exc:
            cause = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise UnavailableError(
                f"The git repository {'/'.join(parts)} is not served: {cause or exc}. Ask the "
                "mirror's operator to bring it again, by `hubmirror openllm pull` or "
                "`git clone --bare`."
            ) from exc

    def projects(self) -> list[str]:
        """The normalized names of all projects that have a wheel here."""
        return sorted({project for project, _ in self._wheels()})

    def wheels(self, project: str) -> list[Wheel]:
        """The wheels of a project. Raises NotOfferedError, and DigestPendingError while they are
        read for the first time."""
        name = canonicalize_name(project)
        found = [path for other, path in self._wheels() if other == name]
        located = [(path, place) for path in found if (place := self._place(path)) is not None]
        if not located:
            raise NotOfferedError(f"This mirror has no wheel of {name[:100]}.")
        found, places = [path for path, _ in located], [place for _, place in located]
        stats = [place.stat() for place in places]
        wanted = [
            DigestJob(str(place), stat.st_size, stat.st_mtime_ns, "sha256")
            for place, stat in zip(places, stats, strict=True)
        ]
        digests = self.digests.of(name, wanted)
        return [
            _wheel(path, stat.st_size, digest)
            for path, stat, digest in zip(found, stats, digests, strict=True)
        ]

    def wheel(self, filename: str) -> Path:
        """Where a wheel lies. Raises NotOfferedError."""
        is_name = "/" not in filename and _project(filename)
        place = self._place(self.data / "wheels" / filename) if is_name else None
        if place is None:
            raise NotOfferedError(f"This mirror has no file {filename[:200]!r}.")
        return place

    def constraints(self, name: str) -> bytes:
        """The versions that were chosen for a model, as a constraints file of uv. Raises
        NotOfferedError."""
        is_name = "/" not in name and not name.startswith(".") and name.endswith(".txt")
        try:
            place = inside(self.data / "openllm" / name, self.data / "openllm") if is_name else None
            if place is not None:
                return read_regular(place, _MAX_CONSTRAINTS, follow=False)
        except (OSError, ValueError):
            pass
        raise NotOfferedError(f"This mirror has no constraints {name[:200]!r} that can be read.")

    def _place(self, path: Path) -> Path | None:
        """Where the bytes of a wheel lie; None where that is no regular file in the folder."""
        try:
            place = inside(path, self.data / "wheels")
            return place if place is not None and place.is_file() else None
        except (OSError, RuntimeError):  # a loop of links
            return None

    def _wheels(self) -> Iterator[tuple[str, Path]]:
        folder = self.data / "wheels"
        try:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
        except OSError as exc:
            raise UnavailableError(f"The wheels cannot be read: {exc.strerror}.") from exc
        for name in names:
            if project := _project(name):
                yield project, folder / name


def _wheel(path: Path, size: int, digest: str) -> Wheel:
    body = metadata(path)
    return Wheel(path.name, path, size, digest, requires_python(body), bool(body))


@functools.lru_cache(maxsize=16384)
def _project(filename: str) -> str:
    """The project that a wheel's name belongs to; empty for any other name."""
    return wheel_project(filename)
