"""Git directories that are safe to run git on.

Git obeys the `config` and the hooks of a repository, and reads what its `alternates` name. One that
came from elsewhere is therefore never given to git. Git gets a view: a git directory that is made
here, with a fixed config, a copy of HEAD, and links to the objects and the refs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.files import inside, read_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONFIG = b"""\
[core]
\trepositoryformatversion = 0
\tbare = true
\tcommitGraph = false
\tmultiPackIndex = false
"""
_BRANCH = rb"(?!.*(?:\.\.|//|/\.|@\{))(?![-/.])[^\x00-\x20\x7f~^:?*\[\\]{1,250}(?<![/.])(?<!\.lock)"
_HEAD = re.compile(rb"(?:ref: refs/heads/" + _BRANCH + rb"|[0-9a-f]{40})\s*")
_SHALLOW = re.compile(rb"(?:[0-9a-f]{40}\n)*")
_LINKED = ("objects", "refs", "packed-refs")
_ALTERNATES = ("alternates", "http-alternates")
_MAX_HEAD = 1024
_MAX_SHALLOW = 1024 * 1024
_MAX_ENTRIES = 500_000
_TRIES = 3


class UnsafeRepositoryError(Exception):
    """A folder that git is not run on; the text says why, as a clause."""


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a view holds: files by name, and the targets of its links."""

    files: Mapping[str, bytes]
    links: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path, root: Path) -> _Contents:
        """Those of a bare repository. Raises UnsafeRepositoryError, and OSError."""
        real = inside(folder, root)
        if real is None:
            raise UnsafeRepositoryError("a link leads out of the folder git/")
        files = {"config": _CONFIG, "HEAD": _head(real)}
        for name in ("objects", "refs"):
            _check_tree(real, name)
        _check_parts(real)
        if shallow := _shallow(real):
            files["shallow"] = shallow
        return cls(files, {name: str(real / name) for name in _LINKED})

    def write(self, view: Path) -> None:
        for name, body in self.files.items():
            (view / name).write_bytes(body)
        for name, target in self.links.items():
            (view / name).symlink_to(target)

    def is_in(self, view: Path) -> bool:
        """Whether a folder holds just this."""
        try:
            return (
                not view.is_symlink()
                and set(os.listdir(view)) == {*self.files, *self.links}
                and all(
                    read_regular(view / one, len(b), follow=False) == b
                    for one, b in self.files.items()
                )
                and all(os.readlink(view / one) == to for one, to in self.links.items())
            )
        except OSError:
            return False


@contextlib.contextmanager
def temporary(folder: Path, root: Path) -> Iterator[Path]:
    """A view of a repository below `root`, for one command. Raises UnsafeRepositoryError, and
    OSError."""
    contents = _Contents.of(folder, root)
    with tempfile.TemporaryDirectory(prefix="hubmirror-git-") as view:
        contents.write(Path(view))
        yield Path(view)


def kept(folder: Path, root: Path, views: Path) -> Path:
    """A view of a repository below `root`, in the folder `views`, which processes may share.

    It is made where it is not there as it must be. Raises UnsafeRepositoryError, and OSError.
    """
    contents = _Contents.of(folder, root)
    key = repr((sorted(contents.files.items()), sorted(contents.links.items())))
    view = views / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    for _ in range(_TRIES):
        if contents.is_in(view):
            return view
        _make(contents, view)
    raise OSError("others change it all the time")


def _make(contents: _Contents, view: Path) -> None:
    """Make a view under another name, and rename it; what is there and is not so goes away."""
    view.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=view.parent, prefix=".new-"))
    try:
        contents.write(staged)
        with contextlib.suppress(OSError):
            staged.rename(view)
            return
        if not contents.is_in(view):  # else another process was faster
            old = view.with_name(f".old-{uuid.uuid4().hex}")
            with contextlib.suppress(FileNotFoundError):
                view.rename(old)
                remove(old)
    finally:
        remove(staged)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _head(real: Path) -> bytes:
    try:
        text = read_regular(real / "HEAD", _MAX_HEAD, follow=False)
    except OSError as exc:
        raise UnsafeRepositoryError("its HEAD is no regular file that can be read") from exc
    if not _HEAD.fullmatch(text):
        raise UnsafeRepositoryError("its HEAD names neither a branch nor a commit")
    return text.strip() + b"\n"


def _shallow(real: Path) -> bytes:
    """The commits whose parents are left out, of a clone made with `--depth`."""
    try:
        text = read_regular(real / "shallow", _MAX_SHALLOW, follow=False)
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise UnsafeRepositoryError("its file shallow cannot be read") from exc
    if not _SHALLOW.fullmatch(text):
        raise UnsafeRepositoryError("its file shallow is damaged")
    return text


def _check_parts(real: Path) -> None:
    packed = real / "packed-refs"
    if os.path.lexists(packed) and (packed.is_symlink() or not packed.is_file()):
        raise UnsafeRepositoryError("packed-refs is no regular file")
    for name in _ALTERNATES:
        if os.path.lexists(real / "objects" / "info" / name):
            raise UnsafeRepositoryError(f"it takes objects from elsewhere (objects/info/{name})")


def _check_tree(real: Path, top: str) -> None:
    """Refuse links and FIFOs among the objects and the refs, which git would open."""
    if (real / top).is_symlink() or not (real / top).is_dir():
        raise UnsafeRepositoryError(f"{top} is no folder")
    waiting, count = [top], 0
    while waiting:
        relative = waiting.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(real / relative) as entries:
            for entry in entries:
                count += 1
                name = f"{relative}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    raise UnsafeRepositoryError(f"{name[:200]!r} is no regular file")
                if count > _MAX_ENTRIES:
                    raise UnsafeRepositoryError(f"{top} has more than {_MAX_ENTRIES} files")
