"""Makes safe views of bare repositories, to run git on.

Git executes the hooks and the commands in the `config` of a repository, and reads the paths in its
`alternates`. hubmirror therefore never runs git on a repository that another host wrote. It runs
git on a view: a git directory with a fixed config, a copy of HEAD, and symbolic links to the
objects and the refs.
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
    """The repository is not safe for git. The text is a clause that gives the reason."""


@dataclass(frozen=True, slots=True)
class _Contents:
    """The contents of a view: files, and the targets of symbolic links, by name."""

    files: Mapping[str, bytes]
    links: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path, root: Path) -> _Contents:
        """The contents for a bare repository. Raises UnsafeRepositoryError and OSError."""
        repository = inside(folder, root)
        if repository is None:
            raise UnsafeRepositoryError("a link leads out of the folder git/")
        files = {"config": _CONFIG, "HEAD": _head(repository)}
        for name in ("objects", "refs"):
            _check_tree(repository, name)
        _check_special_files(repository)
        if shallow := _shallow(repository):
            files["shallow"] = shallow
        return cls(files, {name: str(repository / name) for name in _LINKED})

    def write(self, view: Path) -> None:
        for name, body in self.files.items():
            (view / name).write_bytes(body)
        for name, target in self.links.items():
            (view / name).symlink_to(target)

    def is_in(self, view: Path) -> bool:
        """Whether a folder has exactly these contents."""
        try:
            return (
                not view.is_symlink()
                and set(os.listdir(view)) == {*self.files, *self.links}
                and all(
                    read_regular(view / name, len(body), follow=False) == body
                    for name, body in self.files.items()
                )
                and all(os.readlink(view / name) == target for name, target in self.links.items())
            )
        except OSError:
            return False


@contextlib.contextmanager
def temporary_view(folder: Path, root: Path) -> Iterator[Path]:
    """A view of the repository `folder`, which is below `root`; it is removed at the end.

    Raises UnsafeRepositoryError and OSError.
    """
    contents = _Contents.of(folder, root)
    with tempfile.TemporaryDirectory(prefix="hubmirror-git-") as view:
        contents.write(Path(view))
        yield Path(view)


def shared_view(folder: Path, root: Path, views: Path) -> Path:
    """A view of the repository `folder`, which is below `root`, kept in the folder `views`.

    Several processes may use it at the same time. A missing or wrong view is created again. Raises
    UnsafeRepositoryError and OSError.
    """
    contents = _Contents.of(folder, root)
    key = repr((sorted(contents.files.items()), sorted(contents.links.items())))
    view = views / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    for _ in range(_TRIES):
        if contents.is_in(view):
            return view
        _create(contents, view)
    raise OSError("another process changes its view again and again")


def _create(contents: _Contents, view: Path) -> None:
    """Create a view under a temporary name, and rename it. A wrong view is removed."""
    view.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=view.parent, prefix=".new-"))
    try:
        contents.write(staged)
        with contextlib.suppress(OSError):
            staged.rename(view)
            return
        if not contents.is_in(view):  # else another process created it
            old = view.with_name(f".old-{uuid.uuid4().hex}")
            with contextlib.suppress(FileNotFoundError):
                view.rename(old)
                remove(old)
    finally:
        remove(staged)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _head(repository: Path) -> bytes:
    try:
        text = read_regular(repository / "HEAD", _MAX_HEAD, follow=False)
    except OSError as exc:
        raise UnsafeRepositoryError("its HEAD is not a regular file that can be read") from exc
    if not _HEAD.fullmatch(text):
        raise UnsafeRepositoryError("its HEAD is neither a branch nor a commit hash")
    return text.strip() + b"\n"


def _shallow(repository: Path) -> bytes:
    """The file `shallow` of a clone made with `--depth`; empty if there is none."""
    try:
        text = read_regular(repository / "shallow", _MAX_SHALLOW, follow=False)
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise UnsafeRepositoryError("its file shallow cannot be read") from exc
    if not _SHALLOW.fullmatch(text):
        raise UnsafeRepositoryError("its file shallow is damaged")
    return text


def _check_special_files(repository: Path) -> None:
    packed_refs = repository / "packed-refs"
    if os.path.lexists(packed_refs) and (packed_refs.is_symlink() or not packed_refs.is_file()):
        raise UnsafeRepositoryError("packed-refs is not a regular file")
    for name in _ALTERNATES:
        if os.path.lexists(repository / "objects" / "info" / name):
            raise UnsafeRepositoryError(
                f"it reads objects of another repository (objects/info/{name})"
            )


def _check_tree(repository: Path, top: str) -> None:
    """Refuse links and FIFOs below the folder `top` of a repository, because git opens them."""
    if (repository / top).is_symlink() or not (repository / top).is_dir():
        raise UnsafeRepositoryError(f"{top} is not a folder")
    pending, count = [top], 0
    while pending:
        relative = pending.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(repository / relative) as entries:
            for entry in entries:
                count += 1
                name = f"{relative}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    raise UnsafeRepositoryError(f"{name[:200]!r} is not a regular file")
                if count > _MAX_ENTRIES:
                    raise UnsafeRepositoryError(f"{top} has more than {_MAX_ENTRIES} files")
