"""The tree of a commit: entries, checks of paths, and git's object ids of files and folders."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.core.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


MAX_PATH = 1024
"""The maximum length of a path inside a repository, in characters."""

MAX_DEPTH = 64
"""The maximum number of parts of a path inside a repository, including the file name."""

_INVALID_PARTS = frozenset({"", ".", ".."})
_UNSENDABLE = re.compile(r"[\ud800-\udfff\\]")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a tree. `size` is in bytes; ids are in hex.

    `blob_id` is the git object id of the file; for an LFS file, it is the id of the LFS pointer.
    `xet_hash` is set only if the real hub returned it.
    """

    path: str
    size: int
    blob_id: str
    lfs_sha256: str | None = None
    xet_hash: str | None = None

    @property
    def etag(self) -> str:
        """The digest of the blob. huggingface_hub uses it as the file name of the blob."""
        return self.lfs_sha256 or self.blob_id


@dataclass(frozen=True, slots=True)
class RepoFolder:
    """One folder of a tree, with git's tree id (huggingface_hub `RepoFolder` requires an oid)."""

    path: str
    tree_id: str


class Tree:
    """The files of a commit, by path, and the folders of these paths. `modes` has the files whose
    mode is not 100644."""

    def __init__(
        self, files: Mapping[str, RepoFile], modes: Mapping[str, str] | None = None
    ) -> None:
        self.files = files
        self._modes = modes or {}
        self._children: dict[str, dict[str, RepoFile | str]] = {"": {}}
        for path in sorted(files):
            self._place(path, files[path])
        self._tree_ids: dict[str, str] = {}

    def _place(self, path: str, file: RepoFile) -> None:
        parent, _, name = path.rpartition("/")
        self._folder(parent)[name] = file

    def _folder(self, path: str) -> dict[str, RepoFile | str]:
        if path not in self._children:
            parent, _, name = path.rpartition("/")
            self._children[path] = {}
            self._folder(parent)[name] = path
        return self._children[path]

    def __contains__(self, folder: str) -> bool:
        return folder in self._children

    def entry(self, path: str) -> RepoFile | RepoFolder | None:
        """The file or folder at a path."""
        if path in self.files:
            return self.files[path]
        return RepoFolder(path, self.tree_id(path)) if path and path in self else None

    def entries(self, folder: str = "", *, recursive: bool = False) -> list[RepoFile | RepoFolder]:
        """The entries of a folder, sorted by name; with `recursive`, also those of subfolders."""
        found: list[RepoFile | RepoFolder] = []
        for name in sorted(self._children[folder]):
            child = self._children[folder][name]
            if isinstance(child, RepoFile):
                found.append(child)
                continue
            found.append(RepoFolder(child, self.tree_id(child)))
            if recursive:
                found.extend(self.entries(child, recursive=True))
        return found

    def tree_id(self, folder: str = "") -> str:
        """The git tree id of a folder."""
        if folder not in self._tree_ids:
            self._tree_ids[folder] = git_id("tree", self.body(folder))
        return self._tree_ids[folder]

    def body(self, folder: str) -> bytes:
        """The git tree object of a folder."""
        rows = []
        for name, child in self._children[folder].items():
            if isinstance(child, RepoFile):
                mode = self._modes.get(child.path, "100644").encode()
                rows.append((name.encode(), mode, name, child.blob_id))
            else:
                rows.append((f"{name}/".encode(), b"40000", name, self.tree_id(child)))
        return b"".join(
            mode + b" " + name.encode() + b"\0" + bytes.fromhex(oid)
            for _, mode, name, oid in sorted(rows)
        )

    def folders(self) -> list[str]:
        """The paths of all folders; the root is the empty path."""
        return list(self._children)


def git_id(kind: str, body: bytes) -> str:
    """The git object id (sha1, hex) of a body in memory."""
    whole = b"%s %d\0" % (kind.encode(), len(body)) + body
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest()


def git_blob_hash(size: int) -> hashlib._Hash:
    """The hash object for the git id of a blob, before the first byte of the content."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def blob_hash(etag: str, size: int) -> hashlib._Hash:
    """The hash object for an etag (sha256, or git's sha1), before the first byte of the content."""
    return hashlib.sha256() if len(etag) == 64 else git_blob_hash(size)


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The pointer that git stores instead of an LFS file (git-lfs specification, version 1)."""
    version = "version https://git-lfs.github.com/spec/v1"
    return f"{version}\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_file(path: str, size: int, sha256: str, xet_hash: str | None = None) -> RepoFile:
    """The entry of an LFS file. Its git blob id is computed from the sha256 and the size."""
    return RepoFile(path, size, git_id("blob", lfs_pointer(sha256, size)), sha256, xet_hash)


def check_path(path: str) -> str:
    """The path, if it is inside its repository; else RequestError."""
    is_inside = _INVALID_PARTS.isdisjoint(path.split("/"))
    if not is_inside or "\0" in path or "\\" in path:
        raise RequestError(f"{path[:200]!r} is not a path inside a repository.")
    return path


def check_file_path(path: str) -> str:
    """The path of a file to serve or write, if it is inside its repository and every file system
    accepts its length and depth; else RequestError."""
    if len(check_path(path)) > MAX_PATH or path.count("/") >= MAX_DEPTH:
        raise RequestError(
            f"{path[:200]!r} is longer than {MAX_PATH} characters or deeper than {MAX_DEPTH} "
            "folders. This mirror does not serve such paths."
        )
    return path


def listed_path(path: str) -> str:
    """The path under which a file is listed. Bytes that are not UTF-8 and backslashes cannot be
    sent to clients, and are replaced."""
    return _UNSENDABLE.sub("\ufffd", path)


def check_disjoint(paths: Iterable[str]) -> None:
    """Raises RequestError if one path is both a file and the folder of another path."""
    known = set(paths)
    for path in known:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in known:
                raise RequestError(f"{parent[:200]!r} is both a file and a folder.")
            parent = parent.rpartition("/")[0]


def is_etag(text: object) -> bool:
    """Whether the value is the digest of a blob: a git sha1 or a sha256, in lower-case hex."""
    return isinstance(text, str) and _ETAG.fullmatch(text) is not None


def used_storage(files: Iterable[RepoFile]) -> int:
    """The size of the distinct blobs of a tree, in bytes."""
    return sum({file.etag: file.size for file in files}.values())
