"""The wheels of a virtual environment for another machine: uv resolves them, we fetch and prove."""

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

_READ = 1 << 20
_ADVICE = (
    "Where a project offers no wheel, build one (pip wheel --no-deps), and name its folder with "
    "--find-links."
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIN = re.compile(r"[\w.-]{1,250}==[\w.!+-]{1,250}", re.ASCII)
# The index that the operator has set uv to.
_OPERATORS = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, slots=True)
class Platform:
    """A Linux machine that wheels are for: its Python (`3.11`), glibc (`2.28`) and processor."""

    python: str
    glibc: str = "2.28"
    machine: str = "x86_64"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?", self.python):
            raise ConfigError(f"{self.python[:100]!r} is no version like 3.11.")
        if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", self.glibc):
            raise ConfigError(f"{self.glibc[:100]!r} is no version like 2.28.")
        if not re.fullmatch(r"[a-z0-9_]{1,32}", self.machine):
            raise ConfigError(f"{self.machine[:100]!r} is no machine like x86_64.")

    def __str__(self) -> str:
        return f"Python {self.python} on {self.machine} with glibc {self.glibc}"

    @property
    def uv_name(self) -> str:
        return f"{self.machine}-manylinux_{self.glibc.replace('.', '_')}"

    def tags(self) -> list[tags.Tag]:
        """What such a machine installs, best first."""
        major, minor = (int(part) for part in self.glibc.split("."))
        names = []
        for number in range(minor, 4, -1):
            names.append(f"manylinux_{major}_{number}_{self.machine}")
            if number in _LEGACY:
                names.append(f"{_LEGACY[number]}_{self.machine}")
        names.append(f"linux_{self.machine}")
        version = tuple(int(part) for part in self.python.split("."))[:2]
        interpreter = f"cp{version[0]}{version[1]}"
        return [
            *tags.cpython_tags(version, platforms=names),
            *tags.compatible_tags(version, interpreter=interpreter, platforms=names),
        ]

    def environment(self) -> Environment:
        """The values of environment markers there (PEP 508)."""
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
    """A wheel that a platform needs, and the requirement that means just this version; `url` is
    empty for one that was brought.

    Raises ValueError for what no wheel can have: they come from indexes, and from other hosts.
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
            raise ValueError("a field of a wheel has a wrong type")
        if not wheel_project(self.filename):
            raise ValueError(f"{self.filename[:200]!r} is no name of a wheel")
        if not _SHA256.fullmatch(self.sha256) or not _PIN.fullmatch(self.pin):
            raise ValueError(f"{self.filename} has no sha256, or no version")


def resolve(
    requirements: Sequence[str],
    platform: Platform,
    *,
    newest: datetime | None = None,
    constraints: Sequence[str] = (),
    find_links: Path | None = None,
    trusted: Sequence[str] = (),
    bento: str = "",
) -> list[WantedWheel]:
    """The wheels of these requirements and all that they need, by `uv pip compile`, from the index
    that uv is set to, and from a folder `find_links`. `bento` is the tag of that which wrote the
    requirements; an index that they name is asked where it is `trusted`.

    Nothing that the index published after `newest` is taken: requirements of an old bento that name
    no versions then mean what they meant on its day. Raises ConfigError for a line that is no plain
    requirement, and, with uv's words, where there is no answer.
    """
    ours = (os.environ.get(name, "") for name in _OPERATORS)
    asked = check(bento, requirements, (*trusted, *filter(None, ours)))
    with TemporaryDirectory(prefix="hubmirror-wheels-") as name:
        folder = Path(name)
        (folder / "in.txt").write_text("".join(f"{one}\n" for one in asked.lines))
        (folder / "constraints.txt").write_text("".join(f"{one}\n" for one in constraints))
        lock = folder / "pylock.toml"
        command = [
            *_uv(), "pip", "compile", "--quiet", "--no-header", "--no-annotate",
            "--python-version", platform.python, "--python-platform", platform.uv_name,
            "--only-binary", ":all:", "--no-python-downloads",
            "--constraint", str(folder / "constraints.txt"),
            *(["--default-index", asked.default_index] if asked.default_index else []),
            *(word for index in asked.indexes for word in ("--index", index)),
            *(["--exclude-newer", newest.isoformat()] if newest else []),
            *(["--find-links", str(find_links.absolute())] if find_links else []),
            "--format", "pylock.toml", "--output-file", str(lock), str(folder / "in.txt"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise ConfigError(
                f"No wheels for {platform} answer to {', '.join(asked.lines[:5])}:\n"
                f"{done.stderr.strip()}\n{_ADVICE}"
            )
        return _chosen(lock, platform)


def _chosen(lock: Path, platform: Platform) -> list[WantedWheel]:
    try:
        parsed = Pylock.from_dict(tomllib.loads(lock.read_text()))
        pairs = list(parsed.select(environment=platform.environment(), tags=platform.tags()))
    except (PylockSelectError, PylockValidationError) as exc:
        raise ConfigError(f"A wheel is missing for {platform}: {exc}. {_ADVICE}") from exc
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
                f"The index offers {package.name} in a way that cannot be taken: {exc}. Have uv "
                "ask another one, with UV_DEFAULT_INDEX."
            ) from exc
    return sorted(wheels, key=lambda wheel: wheel.filename)


def fetch(folder: Path, wheel: WantedWheel, advanced: Callable[[int], None]) -> None:
    """Bring a wheel into a folder, proven. Raises UpstreamError."""
    target = folder / wheel.filename
    folder.mkdir(parents=True, exist_ok=True)
    partial, running = folder / f".{wheel.filename}.partial", hashlib.sha256()
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            for chunk in _chunks(wheel.url):
                file.write(chunk)
                running.update(chunk)
                advanced(len(chunk))
                if wheel.size and file.tell() > wheel.size:
                    break
            file.flush()
            os.fsync(file.fileno())
        if running.hexdigest() != wheel.sha256:
            raise UpstreamError(f"{wheel.filename} came with wrong bytes. Run it again.")
        partial.replace(target)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
        brief = str(exc).partition("\n")[0]
        raise UpstreamError(f"{wheel.filename} cannot be fetched: {brief}. Run it again.") from exc
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder)


def _chunks(url: str) -> Iterator[bytes]:
    """What lies at a URL: on the network, or in a folder of wheels that somebody built."""
    if url.startswith("file://"):
        with Path(url2pathname(urlsplit(url).path)).open("rb") as file:
            while chunk := file.read(_READ):
                yield chunk
        return
    with httpx2.stream("GET", url, follow_redirects=True, timeout=60) as answer:
        answer.raise_for_status()
        yield from answer.iter_bytes(_READ)


def missing(folder: Path, wheels: Sequence[WantedWheel]) -> list[WantedWheel]:
    """Those whose bytes are not in a folder, which are read."""
    return [wheel for wheel in wheels if sum_of(folder, wheel) != wheel.sha256]


def sum_of(folder: Path, wheel: WantedWheel) -> str:
    """The sha256 of the file that has a wheel's name in a folder; empty where it is no regular file
    in there, or has another size."""
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
        raise ConfigError("uv is not installed: pip install 'hubmirror[openllm]'.")
    return [sys.executable, "-m", "uv"]
