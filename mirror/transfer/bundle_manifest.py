"""A data folder on a disk that is carried by hand.

A bundle is a folder: `manifest.json`, and volumes that together are one stream of bytes, in which
the manifest says where each file lies. Names and sizes fit any file system. The manifest has the
digest of each volume, so that whoever signs it signs all.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.errors import CarryError, RequestError
from mirror.core.files import read_regular
from mirror.core.repo import Repo
from mirror.core.tree import check_file_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MANIFEST = "manifest.json"
VOLUMES = "hubmirror-*.bin*"
"""A pattern of volumes, and of what is left of unfinished ones."""

VOLUMES_REPO = Repo.parse("bundle")
"""The repository that events about volumes name."""

_FORMAT = 1
_MAX_MANIFEST = 1024 * 1024 * 1024
_VOLUME = re.compile(r"hubmirror-[0-9]{4,6}\.bin")
_HUB_PLACE = re.compile(
    r"hub/[^/\0]+/(?:blobs/(?:[0-9a-f]{40}|[0-9a-f]{64})|hubmirror/[0-9a-f]{40}\.json)"
)
# Of a git repository nothing that git would obey: no config, no hooks, and no path to the objects
# of another one.
_GIT_PLACE = re.compile(
    r"git/[^/\0]+/[^/\0]+/[^/\0]+\.git/(?:HEAD|packed-refs|refs/[^\0]+|objects/[0-9a-f]{2}/[0-9a-f]{38}"
    r"|objects/pack/pack-[0-9a-f]{40}\.(?:pack|idx|rev|bitmap)|objects/info/packs)"
)


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a bundle: `name` is its path below the data folder. `digest` is sha256, or for a
    blob that git keeps whole its sha1. `offset` is where it begins in the stream; None for a blob
    that the other side has in another repository."""

    name: str
    size: int
    digest: str
    offset: int | None = 0

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name, "size": self.size, "digest": self.digest, "offset": self.offset,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Volume:
    """A piece of the stream, from `offset`."""

    name: str
    offset: int
    size: int
    sha256: str = ""

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name, "offset": self.offset, "size": self.size, "sha256": self.sha256,
        }  # fmt: skip

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Volume:
        """Raises ValueError, KeyError and TypeError."""
        name = str(row["name"])
        if not _VOLUME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no name of a volume")
        return cls(name, _count(row["offset"]), _count(row["size"]), _hex(row["sha256"], 64))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds. `since` is the bundle that it builds upon, `since_created_at` when that
    was made; `holds` are all names with their digests that a data folder has once this bundle, and
    those before it, were applied."""

    bundle_id: str
    created_at: str
    since: str
    since_created_at: str
    items: Sequence[Item]
    volumes: Sequence[Volume]
    holds: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """That of a bundle's folder, or a copy of the file alone. Raises CarryError for one that is
        absent, damaged, or names what no bundle may hold."""
        folder = folder.parent if folder.name == MANIFEST else folder
        try:
            data = orjson.loads(read_regular(folder / MANIFEST, _MAX_MANIFEST))
            if data["format_version"] != _FORMAT:
                raise CarryError(f"The bundle {folder.name} is of a newer hubmirror; update this.")
            if data.pop("sha256") != _seal(data):
                raise ValueError("its own digest is another")
            manifest = cls._parse(data)
            manifest._check()
        except FileNotFoundError as exc:
            raise CarryError(
                f"{folder} holds no {MANIFEST}: it is no bundle, or its creation was not "
                "finished. Run `hubmirror bundle create` again."
            ) from exc
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise CarryError(
                f"The manifest of the bundle {folder.name} is damaged: {exc}. Copy it again."
            ) from exc
        return manifest

    @classmethod
    def _parse(cls, data: Mapping[str, Any]) -> Manifest:
        return cls(
            _hex(data["bundle_id"], 32),
            str(data["created_at"]),
            _hex(data["since"], 32) if data["since"] else "",
            str(data["since_created_at"]),
            [_item(row) for row in data["items"]],
            [Volume.parse(row) for row in data["volumes"]],
            dict(_held(name, digest) for name, digest in data["holds"].items()),
        )

    def _check(self) -> None:
        """Raises ValueError where volumes leave gaps, or files lie outside of them; and where it
        builds upon no other, and holds what it does not carry."""
        end = 0
        for volume in self.volumes:
            if volume.offset != end:
                raise ValueError(f"{volume.name} does not follow the volume before it")
            end += volume.size
        for item in self.items:
            if item.offset is not None and item.offset + item.size > end:
                raise ValueError(f"{item.name} lies outside of the volumes")
        carried = {item.name: item.digest for item in self.items if item.offset is not None}
        if not self.since and carried != self.holds:
            raise ValueError("it does not list all that it holds")

    def render(self) -> bytes:
        """The file's text, with a digest of itself."""
        body = {
            "format_version": _FORMAT,
            "bundle_id": self.bundle_id,
            "created_at": self.created_at,
            "since": self.since,
            "since_created_at": self.since_created_at,
            "volumes": [volume.row() for volume in self.volumes],
            "items": [item.row() for item in self.items],
            "holds": self.holds,
        }
        return orjson.dumps({**body, "sha256": _seal(body)}, option=orjson.OPT_INDENT_2)


def _seal(body: Mapping[str, Any]) -> str:
    """The digest of a manifest, whatever white space it is written with."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _held(name: Any, value: Any) -> tuple[str, str]:
    """A name and its digest, which for a blob are the same."""
    place(name)
    digest = _digest(value)
    if name.startswith("hub/") and "/blobs/" in name:
        if not name.endswith(f"/{digest}"):
            raise ValueError(f"{name} is not named by its digest")
    elif len(digest) != 64:
        raise ValueError(f"{name} has a digest of another kind")
    return name, digest


def _item(row: Mapping[str, Any]) -> Item:
    name, digest = _held(row["name"], row["digest"])
    is_elsewhere = row["offset"] is None and "/blobs/" in name
    return Item(name, _count(row["size"]), digest, None if is_elsewhere else _count(row["offset"]))


def place(name: str) -> str:
    """A path below the data folder where a bundle may write: blobs and records of a repository, and
    what lies beside hub/."""
    try:
        parts = check_file_path(name).split("/")
    except (AttributeError, RequestError) as exc:
        raise ValueError(f"{str(name)[:80]!r} is not a path below the data folder") from exc
    if parts[0] == "hub":
        if not _HUB_PLACE.fullmatch(name) or Repo.from_folder_name(parts[1]) is None:
            raise ValueError(f"{name[:80]!r} is not a place in hub/")
    elif name.startswith((".", "hubmirror.toml")) or (parts[0] == "git" and not is_git_data(name)):
        raise ValueError(f"{name[:80]!r} is not to be carried")
    return name


def is_git_data(name: str) -> bool:
    """Whether it is a file of a git repository that a bundle carries: HEAD, a ref or an object."""
    return _GIT_PLACE.fullmatch(name) is not None


def _digest(value: Any) -> str:
    return _hex(value, 40 if len(str(value)) == 40 else 64)


def _hex(value: Any, length: int) -> str:
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
        raise ValueError(f"{str(value)[:80]!r} is no digest")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of bytes")
    return value


@contextlib.contextmanager
def naming_errors(folder: Path) -> Iterator[None]:
    """Says what cannot be written or read, and why, in one line."""
    try:
        yield
    except OSError as exc:
        name = exc.filename or folder
        raise CarryError(f"{name}: {exc.strerror}. Run it again when that is mended.") from exc


def has_size(path: Path, size: int) -> bool:
    """Whether a plain file of that size is there."""
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size == size
    except OSError:
        return False
