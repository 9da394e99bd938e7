"""The layout of a repository folder in an HF cache.

models--org--name/
  blobs/<etag>             content; or a symlink into ../../blobs/<2 hex>/<xet hash> (2.x)
  refs/<branch or tag>     a commit hash; refs/refs/pr/1 for full names
  snapshots/<commit>/…     symlinks into blobs/, or regular files
  trees/<commit>.json      huggingface_hub's list of all files of the commit
  .no_exist/<commit>/…     huggingface_hub's markers of files that upstream does not have
  hubmirror/<commit>.json  hubmirror's record of a pulled revision
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.core.files import read_regular
from mirror.core.foreign_names import is_foreign
from mirror.core.record import MAX_SIDE_FILE, ManifestError, Record, parse_tree
from mirror.core.repo import COMMIT_HASH, Repo, check_ref, is_ref, ref_name, short_ref
from mirror.core.tree import is_etag
from mirror.sources.scan import folder_stamps

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path

    from mirror.core.tree import RepoFile

WORK_DIR = ".hubmirror"
"""The work folder of pulls, copies and checks in a managed cache. The server reads no files in it
except the id of the cache and the quarantined blobs."""

_MAX_REF_FILE = 1000
_MAX_REFS = 100_000
_STAMPED = ("refs/main", "refs", "hubmirror", "blobs", "snapshots")
_RECORDS = _STAMPED.index("hubmirror")
_SHORT_HASH = re.compile(r"[0-9a-f]{4,40}")


def identity(root: Path) -> str:
    """The id of a managed cache; empty if it has none, or if its id file is a copy of the id file
    of another cache (the file contains its own inode number)."""
    try:
        file = root / WORK_DIR / "id"
        name, _, inode = read_regular(file, _MAX_REF_FILE).decode().strip().partition(" ")
        return name if inode == str(file.stat().st_ino) else ""
    except (OSError, UnicodeDecodeError):
        return ""


class LinkError(Exception):
    """A symlink in a snapshot is not followed; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Found:
    """The location of a file's bytes, the name of its blob if it is a symlink, and its stat.

    `xet_hash` is set if the bytes are in the shared blobs/ of the cache: it is the file name there.
    """

    location: str
    etag: str | None
    stat: os.stat_result
    xet_hash: str | None = None


@dataclass(frozen=True, slots=True)
class RepoDir:
    """One repository folder in the cache folder `root`, which is a real path."""

    root: Path
    repo: Repo
    path: Path
    _real: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def records(self) -> Path:
        return self.path / "hubmirror"

    def snapshot(self, commit_hash: str) -> Path:
        return self.path / "snapshots" / commit_hash

    def record(self, commit_hash: str) -> Path:
        return self.records / f"{commit_hash}.json"

    def tree(self, commit_hash: str) -> Path:
        return self.path / "trees" / f"{commit_hash}.json"

    def no_exist(self, commit_hash: str) -> Path:
        return self.path / ".no_exist" / commit_hash

    def ref(self, name: str) -> Path:
        """The file of a full ref name. huggingface_hub names the file with the short name.

        Raises ValueError if the name is not a valid ref name.
        """
        return self.path / "refs" / short_ref(check_ref(name))

    def points_to(self, name: str) -> str:
        """The commit hash in the file of a full ref name; empty if there is none."""
        return _read_ref(str(self.ref(name)))

    def refs(self) -> dict[str, str]:
        """All refs by full name. The value is empty if the ref cannot be read or has no hash.

        The result does not contain the refs that huggingface_hub writes for abbreviated hashes,
        and files that are not refs: their names are not valid in git, or are those of operating
        systems and copying tools.
        """
        folder = f"{self.path}/refs/"
        found = {}
        for file in sorted(itertools.islice(_files_below(folder), _MAX_REFS)):
            short = file.removeprefix(folder)
            if not is_ref(ref_name(short)) or is_foreign(short):
                continue
            commit = _read_ref(file)
            if not (_SHORT_HASH.fullmatch(short) and commit.startswith(short)):
                found[ref_name(short)] = commit
        return found

    def recorded(self) -> bool:
        """Whether the repository has records of pulls: then only recorded revisions are visible.
        Raises OSError if this cannot be known."""
        try:
            return stat.S_ISDIR(os.stat(self.records).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def recorded_commits(self) -> list[str]:
        return _commits(self.records, ".json")

    def snapshot_commits(self) -> list[str]:
        """The commit hashes of the snapshots, oldest first."""
        folder = self.path / "snapshots"
        return sorted(_commits(folder, ""), key=lambda commit: _mtime_ns(folder / commit))

    def read_record(self, commit_hash: str) -> Record:
        """The record of a commit. Raises ManifestError, and OSError if it cannot be read."""
        record = Record.parse(read_regular(self.record(commit_hash), MAX_SIDE_FILE))
        if (record.repo, record.commit_hash) != (self.repo, commit_hash):
            raise ManifestError(f"the record of {record.repo} at {record.commit_hash}")
        return record

    def read_tree(self, commit_hash: str) -> dict[str, RepoFile] | None:
        """huggingface_hub's tree file; None if it is absent or damaged, as in huggingface_hub."""
        try:
            return parse_tree(read_regular(self.tree(commit_hash), MAX_SIDE_FILE))
        except (OSError, ManifestError):
            return None

    def find(self, path: str) -> Found:
        """The file at `path`, an absolute path inside this cache. The path can be a symlink.

        Only the symlinks that huggingface_hub writes are followed: a symlink into the repository's
        own blobs/, and from there a symlink into the shared blobs/ of the cache. Raises LinkError
        for any other symlink, and OSError if the file does not exist.
        """
        found = os.lstat(path)
        names: list[str] = []
        for allowed in (f"{self.path}/blobs", f"{self.root}/blobs"):
            if not stat.S_ISLNK(found.st_mode):
                break
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
            if not path.startswith(f"{allowed}{os.sep}"):
                raise LinkError("it is a symlink to a path outside the blobs of the cache")
            names.append(os.path.basename(path))
            found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise LinkError("it is not a regular file, and not a symlink to one")
        if not self.is_real(os.path.dirname(path)):
            raise LinkError("its folder is a symlink")
        etag, xet_hash = [name if is_etag(name) else None for name in [*names, "", ""][:2]]
        return Found(path, etag, found, xet_hash)

    def is_real(self, folder: str) -> bool:
        """Whether the path of a folder contains no symlink below the cache."""
        if folder not in self._real and os.path.realpath(folder) == folder:
            self._real.add(folder)
        return folder in self._real


def stamp_of(path: str, *, is_managed: bool) -> tuple[Hashable, ...] | None:
    """A value that changes with the commit of `HEAD` and with the files of a repository folder;
    None if the folder does not exist. For a cache that is not managed, the value also contains the
    stamps of the snapshot folders, because all their files are served."""
    stamps = [_mtime_ns(f"{path}/{name}") for name in _STAMPED]
    if not any(stamps):
        return None
    if not stamps[0]:  # without main, HEAD can be any other ref
        stamps += [_mtime_ns(file) for file in sorted(_files_below(f"{path}/refs/"))[:_MAX_REFS]]
    if is_managed or stamps[_RECORDS]:
        return tuple(stamps)
    return (*stamps, _mtime_ns(f"{path}/trees"), folder_stamps(f"{path}/snapshots"))


def _read_ref(file: str) -> str:
    try:
        text = read_regular(file, _MAX_REF_FILE).decode("ascii", "replace").strip()
    except OSError:
        return ""
    return text if COMMIT_HASH.fullmatch(text) else ""


def _files_below(folder: str) -> Iterator[str]:
    pending = [folder]
    while pending:
        parent = pending.pop()
        try:
            entries = list(os.scandir(parent))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{entry.path}/")
            else:
                yield entry.path


def _commits(folder: Path, suffix: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    stems = (name.removesuffix(suffix) for name in sorted(names) if name.endswith(suffix))
    return [stem for stem in stems if COMMIT_HASH.fullmatch(stem)]


def _mtime_ns(path: str | Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0
