"""Reads and writes the manifest of a bundle, which copies a data folder on a disk.

A bundle is a folder with `manifest.json` and volumes. The volumes together are one stream of bytes,
and the manifest has the offset of each file in this stream. Names and sizes of volumes fit any file
system. The manifest has the digest of each volume, so that its signature covers the whole bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.errors import CarryError, RequestError, os_error_text
from mirror.core.files import read_regular
from mirror.core.repo import Repo
from mirror.core.tree import check_file_path
from mirror.transfer.bundle_signature import check_signature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MANIFEST = "manifest.json"
VOLUMES = "hubmirror-*.bin*"
"""A glob pattern of volumes and of unfinished volumes (`*.bin.partial`)."""

VOLUMES_REPO = Repo.parse("bundle")
"""The repository in progress events about volumes."""

_FORMAT = 1
_MAX_MANIFEST = 1024 * 1024 * 1024
_VOLUME = re.compile(r"hubmirror-[0-9]{4,6}\.bin")
_HUB_PLACE = re.compile(
    r"hub/[^/\0]+/(?:blobs/(?:[0-9a-f]{40}|[0-9a-f]{64})|hubmirror/[0-9a-f]{40}\.json)"
)
# Only data of a git repository: a config, a hook or objects/info/alternates could run commands or
# read other repositories.
_GIT_PLACE = re.compile(
    r"git/[^/\0]+/[^/\0]+/[^/\0]+\.git/(?:HEAD|packed-refs|refs/[^\0]+|objects/[0-9a-f]{2}/[0-9a-f]{38}"
    r"|objects/pack/pack-[0-9a-f]{40}\.(?:pack|idx|rev|bitmap)|objects/info/packs)"
)


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a bundle.

    `name` is its path below the data folder. `digest` is its sha256, or git's sha1 for a blob
    without LFS. `offset` is its start in the stream, in bytes; None for a blob that the other host
    has in another repository.
    """

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
    """A part of the stream: `size` bytes from `offset`."""

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
        """Raises ValueError, KeyError or TypeError."""
        name = str(row["name"])
        if not _VOLUME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is not the name of a volume")
        return cls(name, _count(row["offset"]), _count(row["size"]), _hex(row["sha256"], 64))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a bundle.

    `since` is the id of the base bundle, and `since_created_at` its time of creation; both are
    empty if there is no base. `holds` maps names to digests: all files of a data folder to which
    this bundle and its base bundles were applied.
    """

    bundle_id: str
    created_at: str
    since: str
    since_created_at: str
    items: Sequence[Item]
    volumes: Sequence[Volume]
    holds: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, signers: Path | None = None) -> Manifest:
        """Read the manifest of a bundle. `folder` is the bundle, or the path of the manifest.

        If `signers` is given, one of these allowed signers must have signed the manifest. Raises
        CarryError for a manifest that is absent or damaged, or has a forbidden path.
        """
        folder = folder.parent if folder.name == MANIFEST else folder
        try:
            body = read_regular(folder / MANIFEST, _MAX_MANIFEST)
            if signers:
                check_signature(body, folder / f"{MANIFEST}.sig", signers)
            data = orjson.loads(body)
            if data["format_version"] != _FORMAT:
                raise CarryError(
                    f"A newer hubmirror wrote the bundle {folder.name}. Update hubmirror on this "
                    "host."
                )
            if data.pop("sha256") != _manifest_digest(data):
                raise ValueError("it does not match its own digest")
            manifest = cls._parse(data)
            manifest._check()
        except FileNotFoundError as exc:
            raise CarryError(_absence(folder)) from exc
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
            dict(_checked_entry(name, digest) for name, digest in data["holds"].items()),
        )

    def _check(self) -> None:
        """Raises ValueError if the volumes have gaps, if a file is outside of the volumes, or if a
        bundle without a base does not contain all its files."""
        end = 0
        for volume in self.volumes:
            if volume.offset != end:
                raise ValueError(f"{volume.name} does not follow the volume before it")
            end += volume.size
        for item in self.items:
            if item.offset is not None and item.offset + item.size > end:
                raise ValueError(f"{item.name} is outside of the volumes")
        included = {item.name: item.digest for item in self.items if item.offset is not None}
        if not self.since and included != self.holds:
            raise ValueError("its lists of files differ")

    def render(self) -> bytes:
        """The JSON text, with its own digest."""
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
        return orjson.dumps({**body, "sha256": _manifest_digest(body)}, option=orjson.OPT_INDENT_2)


def _absence(folder: Path) -> str:
    """Why a folder has no manifest."""
    if not folder.is_dir():
        return (
            f"{folder} does not exist. Name the folder of a bundle, which has a {MANIFEST}, and "
            "check that the disk is mounted."
        )
    if any(folder.glob(VOLUMES)):
        return (
            f"{folder} has volumes, but no {MANIFEST}: the bundle is not finished, or was not "
            "copied completely. Run `hubmirror bundle create` again, or copy the rest."
        )
    inner = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    hint = f" It contains bundles: {', '.join(inner[:5])}." if inner else ""
    return f"{folder} is not a bundle: it has no {MANIFEST}.{hint} Name the folder of a bundle."


def _manifest_digest(body: Mapping[str, Any]) -> str:
    """The sha256 of a manifest without its digest; white space has no effect."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _checked_entry(name: Any, value: Any) -> tuple[str, str]:
    """A checked name and digest. The name of a blob must end with its digest."""
    check_path(name)
    digest = _digest(value)
    if name.startswith("hub/") and "/blobs/" in name:
        if not name.endswith(f"/{digest}"):
            raise ValueError(f"{name} does not have its digest as its name")
    elif len(digest) != 64:
        raise ValueError(f"{name} has a digest that is not a sha256")
    return name, digest


def _item(row: Mapping[str, Any]) -> Item:
    name, digest = _checked_entry(row["name"], row["digest"])
    is_absent = row["offset"] is None and "/blobs/" in name
    return Item(name, _count(row["size"]), digest, None if is_absent else _count(row["offset"]))


def check_path(name: str) -> str:
    """Return `name` if a bundle may write this path below the data folder: blobs and records of
    hub/, and files outside of hub/. Raises ValueError for another path."""
    try:
        parts = check_file_path(name).split("/")
    except (AttributeError, RequestError) as exc:
        raise ValueError(f"{str(name)[:80]!r} is not a path below the data folder") from exc
    if parts[0] == "hub":
        if not _HUB_PLACE.fullmatch(name) or Repo.from_folder_name(parts[1]) is None:
            raise ValueError(f"{name[:80]!r} is not a blob or a record in hub/")
    elif name.startswith((".", "hubmirror.toml")) or (parts[0] == "git" and not is_git_data(name)):
        raise ValueError(f"{name[:80]!r} is not allowed in a bundle")
    return name


def is_git_data(name: str) -> bool:
    """Whether a bundle may contain this file of a git repository: HEAD, a ref or an object."""
    return _GIT_PLACE.fullmatch(name) is not None


def _digest(value: Any) -> str:
    return _hex(value, 40 if len(str(value)) == 40 else 64)


def _hex(value: Any, length: int) -> str:
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
        raise ValueError(f"{str(value)[:80]!r} is not a digest")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number of bytes")
    return value


@contextlib.contextmanager
def os_errors_as_carry_errors(folder: Path) -> Iterator[None]:
    """Turn OSError into CarryError, with the path (by default `folder`) and the cause."""
    try:
        yield
    except OSError as exc:
        raise CarryError(os_error_text(exc, folder)) from exc


def has_size(path: Path, size: int) -> bool:
    """Whether `path` is a regular file of this size."""
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size == size
    except OSError:
        return False
