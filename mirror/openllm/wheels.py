"""Resolves the wheels of a virtual environment for another machine with uv, and downloads them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx2
from packaging import tags
from packaging.pylock import PackageWheel, Pylock, PylockSelectError, PylockValidationError

from mirror.core.errors import ConfigError, UpstreamError
from mirror.core.files import inside
from mirror.derived.state import sync_folder
from mirror.openllm.requirements import check
from mirror.openllm.wheel_metadata import wheel_project
from mirror.store.verify_digest import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from packaging.markers import Environment

_CHUNK_SIZE = 1 << 20
_ADVICE = (
    "If a project has no wheel, build one (pip wheel --no-deps), and pass its folder with "
    "--find-links."
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIN = re.compile(r"[\w.-]{1,250}==[\w.!+-]{1,250}", re.ASCII)
# The variables with the index that the operator configured for uv.
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")
_LEGACY_TAGS = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, slots=True)
class Platform:
    """A Linux machine: its versions of Python (`3.11`) and glibc (`2.28`), and its processor."""

    python: str
    glibc: str = "2.28"
    machine: str = "x86_64"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?", self.python):
            raise ConfigError(f"{self.python[:100]!r} is not a Python version. Example: 3.11.")
        if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", self.glibc):
            raise ConfigError(f"{self.glibc[:100]!r} is not a glibc version. Example: 2.28.")
        if not re.fullmatch(r"[a-z0-9_]{1,32}", self.machine):
            raise ConfigError(
                f"{self.machine[:100]!r} is not the name of a processor. Example: x86_64."
            )

    def __str__(self) -> str:
        return f"Python {self.python} on {self.machine} with glibc {self.glibc}"

    @property
    def uv_name(self) -> str:
        """Its name for the option --python-platform of uv."""
        return f"{self.machine}-manylinux_{self.glibc.replace('.', '_')}"

    def tags(self) -> list[tags.Tag]:
        """The wheel tags that the machine accepts; the best is the first."""
        major, minor = (int(part) for part in self.glibc.split("."))
        platforms = []
        for number in range(minor, 4, -1):
            platforms.append(f"manylinux_{major}_{number}_{self.machine}")
            if number in _LEGACY_TAGS:
                platforms.append(f"{_LEGACY_TAGS[number]}_{self.machine}")
        platforms.append(f"linux_{self.machine}")
        version = tuple(int(part) for part in self.python.split("."))[:2]
        interpreter = f"cp{version[0]}{version[1]}"
        return [
            *tags.cpython_tags(version, platforms=platforms),
            *tags.compatible_tags(version, interpreter=interpreter, platforms=platforms),
        ]

    def environment(self) -> Environment:
        """The values of the environment markers (PEP 508) on the machine."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True, slots=True)
class WantedWheel:
    """A wheel that a platform needs.

    `size` is in bytes (0: unknown), `pin` is the requirement `name==version`, and `url` is empty
    for a wheel of a stored closure. Raises ValueError for a field that is not valid, because the
    fields come from an index or from a file that another host wrote.
    """

    filename: str
    size: int
    sha256: str
    pin: str
    url: str = ""

    def __post_init__(self) -> None:
        is_size = type(self.size) is int and self.size >= 0
        texts = (self.filename, self.sha256, self.pin, self.url)
        if not is_size or not all(isinstance(text, str) for text in texts):
            raise ValueError("a field of the wheel has the wrong type")
        if not wheel_project(self.filename):
            raise ValueError(f"{self.filename[:200]!r} is not the filename of a wheel")
        if not _SHA256.fullmatch(self.sha256) or not _PIN.fullmatch(self.pin):
            raise ValueError(f"{self.filename} has no valid sha256 or no valid version")


def resolve(
    requirements: Sequence[str],
    platform: Platform,
    *,
    published_before: datetime | None = None,
    constraints: Sequence[str] = (),
    find_links: Path | None = None,
    trusted: Sequence[str] = (),
    bento: str = "",
) -> list[WantedWheel]:
    """Resolve requirements and their dependencies to wheels, with `uv pip compile`.

    uv reads the index that it is configured with, the folder `find_links`, and the indexes that
    the requirements add, if their URLs are `trusted`. `bento` is the tag of the bento of the
    requirements, for messages. Packages published after `published_before` are ignored
    (`--exclude-newer` of uv): the requirements of an old bento without versions then resolve to
    the versions of that time. Raises ConfigError for an unsafe requirement, and, with the message
    of uv, if there is no solution.
    """
    configured = (os.environ.get(name, "") for name in _INDEX_VARIABLES)
    checked = check(bento, requirements, (*trusted, *filter(None, configured)))
    with TemporaryDirectory(prefix="hubmirror-wheels-") as name:
        folder = Path(name)
        (folder / "in.txt").write_text("".join(f"{line}\n" for line in checked.lines))
        (folder / "constraints.txt").write_text("".join(f"{line}\n" for line in constraints))
        lock = folder / "pylock.toml"
        command = [
            *_uv(), "pip", "compile", "--quiet", "--no-header", "--no-annotate",
            "--python-version", platform.python, "--python-platform", platform.uv_name,
            "--only-binary", ":all:", "--no-python-downloads",
            "--constraint", str(folder / "constraints.txt"),
            *(["--default-index", checked.default_index] if checked.default_index else []),
            *(argument for index in checked.indexes for argument in ("--index", index)),
            *(["--exclude-newer", published_before.isoformat()] if published_before else []),
            *(["--find-links", str(find_links.absolute())] if find_links else []),
            "--format", "pylock.toml", "--output-file", str(lock), str(folder / "in.txt"),
        ]  # fmt: skip
        process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if process.returncode:
            raise ConfigError(
                f"uv finds no wheels for {platform} that satisfy "
                f"{', '.join(checked.lines[:5])}:\n"
                f"{process.stderr.strip()}\n{_ADVICE}"
            )
        return _locked_wheels(lock, platform)


def _locked_wheels(lock: Path, platform: Platform) -> list[WantedWheel]:
    """The wheels that a pylock.toml selects for a platform, sorted by filename."""
    try:
        parsed = Pylock.from_dict(tomllib.loads(lock.read_text()))
        pairs = list(parsed.select(environment=platform.environment(), tags=platform.tags()))
    except (PylockSelectError, PylockValidationError) as exc:
        raise ConfigError(f"A package has no wheel for {platform}: {exc}. {_ADVICE}") from exc
    wheels = []
    for package, wheel in pairs:
        if not isinstance(wheel, PackageWheel) or not wheel.url:
            raise ConfigError(
                f"{package.name} {package.version} has no wheel for {platform}. {_ADVICE}"
            )
        pin, sha256 = f"{package.name}=={package.version}", wheel.hashes.get("sha256", "")
        try:
            wheels.append(WantedWheel(wheel.filename, wheel.size or 0, sha256, pin, wheel.url))
        except ValueError as exc:
            raise ConfigError(
                f"The index has an entry for {package.name} that is not valid: {exc}. Use another "
                "index: set UV_DEFAULT_INDEX."
            ) from exc
    return sorted(wheels, key=lambda wheel: wheel.filename)


def fetch(folder: Path, wheel: WantedWheel, advanced: Callable[[int], None]) -> None:
    """Download a wheel into a folder, and check its sha256.

    `advanced` is called with the number of bytes of each chunk. Raises UpstreamError.
    """
    target = folder / wheel.filename
    folder.mkdir(parents=True, exist_ok=True)
    partial, sha256 = folder / f".{wheel.filename}.partial", hashlib.sha256()
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            for chunk in _chunks(wheel.url):
                file.write(chunk)
                sha256.update(chunk)
                advanced(len(chunk))
                if wheel.size and file.tell() > wheel.size:
                    break
            file.flush()
            os.fsync(file.fileno())
        if sha256.hexdigest() != wheel.sha256:
            raise UpstreamError(
                f"The download of {wheel.filename} does not have the sha256 that the index lists. "
                "Run the command again."
            )
        partial.replace(target)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
        cause = str(exc).partition("\n")[0]
        raise UpstreamError(
            f"{wheel.filename} cannot be downloaded: {cause}. Run the command again."
        ) from exc
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder)


def _chunks(url: str) -> Iterator[bytes]:
    """The content of a URL; a file:// URL is a wheel of the folder of --find-links."""
    if url.startswith("file://"):
        with Path(url2pathname(urlsplit(url).path)).open("rb") as file:
            while chunk := file.read(_CHUNK_SIZE):
                yield chunk
        return
    with httpx2.stream("GET", url, follow_redirects=True, timeout=60) as response:
        response.raise_for_status()
        yield from response.iter_bytes(_CHUNK_SIZE)


def missing(folder: Path, wheels: Sequence[WantedWheel]) -> list[WantedWheel]:
    """The wheels that a folder does not have with the right sha256. It reads each file."""
    return [wheel for wheel in wheels if file_sha256(folder, wheel) != wheel.sha256]


def absent(folder: Path, wheels: Sequence[WantedWheel]) -> list[WantedWheel]:
    """The wheels that a folder does not have with the right size. It reads no file."""
    return [wheel for wheel in wheels if not _has_size(folder, wheel)]


def _has_size(folder: Path, wheel: WantedWheel) -> bool:
    try:
        path = inside(folder / wheel.filename, folder)
        return path is not None and path.is_file() and path.stat().st_size == wheel.size
    except (OSError, RuntimeError):
        return False


def file_sha256(folder: Path, wheel: WantedWheel) -> str:
    """The sha256 of the file of a folder that has a wheel's filename.

    It is empty if the file is missing, is not a regular file in the folder, or has another size.
    """
    try:
        path = inside(folder / wheel.filename, folder)
        is_file = path is not None and path.is_file()
        if path is None or not is_file or wheel.size not in (0, path.stat().st_size):
            return ""
        return sha256_of(path)
    except (OSError, RuntimeError):
        return ""


def _uv() -> list[str]:
    if importlib.util.find_spec("uv") is None:
        raise ConfigError("uv is not installed. Install it: pip install 'hubmirror[openllm]'.")
    return [sys.executable, "-m", "uv"]
