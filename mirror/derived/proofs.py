"""Cheap proofs that a file is not what its name and digest say, before its first byte is served.

The name of a blob in a foreign cache is a digest that nobody has compared with the bytes. To read
all bytes can take minutes, so only a few are read here: those of small files, and the headers and
ends of weight files, which say how long the file must be. A result is cached until the file
changes. What `hubmirror verify` found by reading all bytes is stored in the state folder.
"""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, NamedTuple

import orjson

from mirror.core.errors import RequestError
from mirror.core.files import is_outage, open_regular, read_regular
from mirror.core.tree import blob_hash, check_file_path
from mirror.derived.weight_sizes import SIZE_CHECKS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mirror.derived.state import State

CORRUPT = "`hubmirror verify` found that its bytes do not match its digest"
_EMPTY = "it is empty, and its digest is not that of an empty file"
_MISMATCH = "its bytes do not match its digest"
_LINK = "it is a text file in place of a symlink, because it was copied without symlinks"
_POINTER = "it is a git-lfs pointer without content"

_MAX_HASHED = 64 * 1024
_MAX_TEXT = 2048
_MAX_INDEX = 64 * 1024 * 1024
_MAX_SHARDS = 20_000
_MAX_RESULTS = 200_000
_MAX_INDEXES = 2_000

# A symlink of a cache as text: from git and copying tools on Windows; as Samba stores it (XSym);
# and as Cygwin stores it, in UTF-16, whose zero bytes are removed before the comparison.
_LINK_TEXT = re.compile(
    rb"(?:XSym\n\d{4}\n[0-9a-f]{32}\n|!<symlink>(?:\xff\xfe)?)?"
    rb"(?:\.\.[/\\])+blobs[/\\](?:[0-9a-f]{2}[/\\])?(?:[0-9a-f]{64}|[0-9a-f]{40})\s*"
)
_POINTER_TEXT = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:[0-9a-f]{64}\nsize \d{1,15}\n"
)
_INDEX_NAME = re.compile(r".+\.index(?:\.[\w-]+)?\.json")


class Identity(NamedTuple):
    """What a file has in common with itself until it is changed or replaced."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


def problem_of(path: str, location: str, found: os.stat_result, etag: str | None) -> str:
    """The reason why the file at `location` cannot be the content of `path`; empty if none is
    known. `etag` is None if the digest was computed from the bytes. Raises OSError if the disk
    fails."""
    if found.st_size == 0:
        is_empty = etag is None or blob_hash(etag, 0).hexdigest() == etag
        return "" if is_empty else _EMPTY
    suffix = os.path.splitext(path)[1].lower()
    has_hash = etag is not None and found.st_size <= _MAX_HASHED
    if not has_hash and found.st_size > _MAX_TEXT and suffix not in SIZE_CHECKS:
        return ""
    key = (*Identity.of(found), found.st_ctime_ns)
    try:
        return _prove(location, key, suffix, etag or "")
    except OSError as exc:
        if is_outage(exc):
            raise
        return exc.strerror or "it cannot be read"


@functools.lru_cache(_MAX_RESULTS)
def _prove(location: str, key: tuple[int, ...], suffix: str, etag: str) -> str:
    size = key[0]
    if size <= _MAX_HASHED:
        body = read_regular(location, _MAX_HASHED, follow=False)
        if size <= _MAX_TEXT and _LINK_TEXT.fullmatch(body.replace(b"\0", b"")):
            return _LINK
        if etag and size <= _MAX_TEXT and _POINTER_TEXT.fullmatch(body):
            return _POINTER
        if etag:
            digest = blob_hash(etag, len(body))
            digest.update(body)
            return "" if digest.hexdigest() == etag else _MISMATCH
    if suffix not in SIZE_CHECKS:
        return ""
    with open(open_regular(location, follow=False), "rb") as file:
        return SIZE_CHECKS[suffix](file, size)


def is_index(path: str) -> bool:
    """Whether a file has the name of a weight index (`model.safetensors.index.json`)."""
    return _INDEX_NAME.fullmatch(path.rpartition("/")[2]) is not None


def shards_of(location: str) -> frozenset[str]:
    """The weight files that a weight index names, relative to its folder; empty if it cannot be
    read."""
    try:
        found = os.lstat(location)
        return _shards(location, (*Identity.of(found), found.st_ctime_ns))
    except OSError:
        return frozenset()


@functools.lru_cache(_MAX_INDEXES)
def _shards(location: str, _: tuple[int, ...]) -> frozenset[str]:
    try:
        names = set(orjson.loads(read_regular(location, _MAX_INDEX))["weight_map"].values())
        if len(names) > _MAX_SHARDS:
            return frozenset()
        return frozenset(check_file_path(name) for name in names)
    except (AttributeError, KeyError, RequestError, TypeError, ValueError):
        return frozenset()


class CorruptFiles:
    """The files below one folder that `hubmirror verify` found corrupt, in the state folder."""

    def __init__(self, state: State, root: str | os.PathLike[str]) -> None:
        self._state = state
        self._root = str(root)

    def find(self) -> Mapping[str, str]:
        """The corrupt files that have not changed since then, each with the reason."""
        return dict.fromkeys(self._read(), CORRUPT)

    def record(self, corrupt: Collection[str], sound: Collection[str]) -> None:
        """Store what a check found: corrupt files, and files that match their digests."""
        before = self._read()
        kept = {one: identity for one, identity in before.items() if one not in sound}
        kept |= {one: found for one in corrupt if (found := _identity_at(one))}
        if kept != before:
            fact = {one: list(identity) for one, identity in kept.items()}
            self._state.put("corrupt", self._root, fact)

    def _read(self) -> dict[str, Identity]:
        fact = self._state.get("corrupt", self._root)
        if not isinstance(fact, dict):
            return {}
        return {
            location: identity
            for location, values in fact.items()
            if (identity := _identity_at(location)) and list(identity) == values
        }


def _identity_at(location: str) -> Identity | None:
    try:
        return Identity.of(os.lstat(location))
    except OSError:
        return None
