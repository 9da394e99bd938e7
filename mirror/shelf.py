"""What lies beside the models: git repositories, and wheels.

git/<host>/<owner>/<repo>.git   bare repositories, under the address that they have upstream
wheels/*.whl                    what virtual environments are made of
"""

from __future__ import annotations

import email.parser
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from mirror import git_view
from mirror.digests import Wanted
from mirror.errors import NotOfferedError, UnavailableError
from mirror.git_view import UnsafeRepositoryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.digests import Digests

_PART = re.compile(r"(?!\.)[\w.-]{1,100}", re.ASCII)
_WHEEL = re.compile(r"\w[\w.+!-]{1,240}\.whl", re.ASCII)
_MOST_METADATA = 4 * 1024 * 1024


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
class Shelf:
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
        found = [path for other, path in self._wheels() if other == name and path.is_file()]
        if not found:
            raise NotOfferedError(f"This mirror has no wheel of {name[:100]}.")
        places = [path.resolve() for path in found]
        stats = [place.stat() for place in places]
        wanted = [
            Wanted(str(place), stat.st_size, stat.st_mtime_ns, "sha256")
            for place, stat in zip(places, stats, strict=True)
        ]
        digests = self.digests.of(name, wanted)
        return [
            _wheel(path, stat.st_size, digest)
            for path, stat, digest in zip(found, stats, digests, strict=True)
        ]

    def wheel(self, filename: str) -> Path:
        """Where a wheel lies. Raises NotOfferedError."""
        path = self.data / "wheels" / filename
        if "/" in filename or not _project(filename) or not path.is_file():
            raise NotOfferedError(f"This mirror has no file {filename[:200]!r}.")
        return path.resolve()

    def constraints(self, name: str) -> bytes:
        """The versions that were chosen for a model, as a constraints file of uv and pip. Raises
        NotOfferedError."""
        path = self.data / "openllm" / name
        if "/" in name or name.startswith(".") or path.suffix != ".txt" or not path.is_file():
            raise NotOfferedError(f"This mirror has no constraints {name[:200]!r}.")
        return path.read_bytes()

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
    return Wheel(path.name, path, size, digest, _requires_python(body), bool(body))


def _project(filename: str) -> str:
    """The project that a wheel's name belongs to; empty for any other name."""
    if not _WHEEL.fullmatch(filename):
        return ""
    try:
        return parse_wheel_filename(filename)[0]
    except InvalidWheelFilename:
        return ""


def metadata(wheel: Path) -> bytes:
    """A wheel's METADATA; empty where it has none, or is damaged."""
    try:
        with zipfile.ZipFile(wheel) as opened:
            for name in opened.namelist():
                if name.count("/") == 1 and name.endswith(".dist-info/METADATA"):
                    with opened.open(name) as file:
                        return file.read(_MOST_METADATA)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
        return b""
    return b""


def _requires_python(body: bytes) -> str:
    told = email.parser.BytesParser().parsebytes(body, headersonly=True)
    return str(told.get("Requires-Python", ""))
