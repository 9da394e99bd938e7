"""Finds the git repositories, wheels and constraints that the mirror serves to OpenLLM 0.6.

git/<host>/<owner>/<repo>.git   bare repositories; the path is their upstream address
wheels/*.whl                    the wheels of virtual environments
openllm/*.txt                   uv constraints, one file for each model and platform
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mirror.core.errors import NotOfferedError, UnavailableError
from mirror.core.files import inside, read_regular
from mirror.core.presence import Presence
from mirror.derived.digests import DigestJob
from mirror.openllm import git_view
from mirror.openllm.git_view import UnsafeRepositoryError
from mirror.openllm.wheel_metadata import metadata, requires_python, wheel_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.derived.digests import Digests

_PART = re.compile(r"(?!\.)[\w.-]{1,100}", re.ASCII)
_FOLDERS = ("git", "wheels", "openllm")
_MAX_CONSTRAINTS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of a project.

    `size` is in bytes, `sha256` in hex, and `requires_python` is the field of its METADATA.
    """

    filename: str
    location: Path
    size: int
    sha256: str
    requires_python: str
    has_metadata: bool


@dataclass(slots=True)
class OpenLLMFiles:
    """The git repositories, wheels and constraints of a data folder. All methods block."""

    data: Path
    digests: Digests
    presence: Presence = field(init=False)

    def __post_init__(self) -> None:
        self.presence = Presence(self.data, "The data folder", self._has_content)

    def check(self) -> None:
        """Raises UnavailableError if the folder had content, and its disk is away."""
        if self._has_content():
            self.presence.note_content()
        self.presence.check()

    def _has_content(self) -> bool:
        return any((self.data / name).is_dir() for name in _FOLDERS)

    def _not_offered(self, message: str) -> NotOfferedError:
        """The error for what does not exist. Raises UnavailableError instead if the disk is
        away."""
        self.check()
        return NotOfferedError(message)

    def git(self, views: Path, host: str, owner: str, name: str) -> Path:
        """The view of a bare repository to run git on; it is kept in the folder `views`.

        Raises NotOfferedError if the repository does not exist, and UnavailableError if it is not
        safe to read.
        """
        name = name.removesuffix(".git")
        parts = (host, owner, name)
        folder = self.data / "git" / host / owner / f"{name}.git"
        if not all(map(_PART.fullmatch, parts)) or not os.path.lexists(folder / "HEAD"):
            raise self._not_offered(f"This mirror has no git repository {'/'.join(parts)[:200]}.")
        try:
            return git_view.shared_view(folder, self.data / "git", views)
        except (UnsafeRepositoryError, OSError) as exc:
            cause = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise UnavailableError(
                f"The git repository {'/'.join(parts)} is not served: {cause or exc}. Ask the "
                "operator of the mirror to fetch it again, with `hubmirror openllm pull` or "
                "`git clone --bare`."
            ) from exc

    def projects(self) -> list[str]:
        """The normalized names of all projects with a wheel."""
        self.check()
        return sorted({project for project, _ in self._wheels()})

    def wheels(self, project: str) -> list[Wheel]:
        """The wheels of a project.

        Raises NotOfferedError if there is none, and DigestPendingError while their sha256 is
        computed for the first time.
        """
        name = canonicalize_name(project)
        paths = [path for found_name, path in self._wheels() if found_name == name]
        resolved = [(path, real) for path in paths if (real := self._resolve(path)) is not None]
        if not resolved:
            raise self._not_offered(f"This mirror has no wheel of {name[:100]}.")
        stats = [real.stat() for _, real in resolved]
        jobs = [
            DigestJob(str(real), stat.st_size, stat.st_mtime_ns, "sha256")
            for (_, real), stat in zip(resolved, stats, strict=True)
        ]
        digests = self.digests.of(name, jobs)
        return [
            _wheel(path, stat.st_size, digest)
            for (path, _), stat, digest in zip(resolved, stats, digests, strict=True)
        ]

    def wheel(self, filename: str) -> Path:
        """The real path of a wheel. Raises NotOfferedError."""
        is_valid = "/" not in filename and _project(filename)
        real = self._resolve(self.data / "wheels" / filename) if is_valid else None
        if real is None:
            raise self._not_offered(f"This mirror has no wheel {filename[:200]!r}.")
        return real

    def constraints(self, name: str) -> bytes:
        """The content of a constraints file, which uv reads. Raises NotOfferedError."""
        is_valid = "/" not in name and not name.startswith(".") and name.endswith(".txt")
        folder = self.data / "openllm"
        try:
            real = inside(folder / name, folder) if is_valid else None
            if real is not None:
                return read_regular(real, _MAX_CONSTRAINTS, follow=False)
        except (OSError, ValueError):
            pass
        raise self._not_offered(f"This mirror has no constraints file {name[:200]!r}.")

    def _resolve(self, path: Path) -> Path | None:
        """The real path of a wheel; None if it is not a regular file in the folder of wheels."""
        try:
            real = inside(path, self.data / "wheels")
            return real if real is not None and real.is_file() else None
        except (OSError, RuntimeError):  # a loop of links
            return None

    def _wheels(self) -> Iterator[tuple[str, Path]]:
        folder = self.data / "wheels"
        try:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
        except OSError as exc:
            raise UnavailableError(
                f"The wheels cannot be read: {exc.strerror}. Ask the operator of the mirror."
            ) from exc
        for name in names:
            if project := _project(name):
                yield project, folder / name


def _wheel(path: Path, size: int, digest: str) -> Wheel:
    body = metadata(path)
    return Wheel(path.name, path, size, digest, requires_python(body), bool(body))


@functools.lru_cache(maxsize=16384)
def _project(filename: str) -> str:
    """The normalized project name in a wheel's filename; empty if it is not a wheel's filename."""
    return wheel_project(filename)
