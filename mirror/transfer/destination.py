"""The destination of a push, and the check that it is empty or a data folder.

rsync overwrites files, and deletes them with `--delete`. A destination is a data folder if it has
`.hubmirror` or `hub/.hubmirror`, the folders in which hubmirror keeps its own work.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError
from mirror.transfer.rsync import RsyncError, rsync

if TYPE_CHECKING:
    from collections.abc import Sequence

_MARKS = (".hubmirror", "hub/.hubmirror")
_OF_THE_DISK = "lost+found"
_FILTERS = (
    "--include=/hub/", "--include=/hub/.hubmirror/", "--exclude=/hub/.hubmirror/*",
    "--exclude=/*/*",
)  # fmt: skip
_ENTRY = re.compile(r"[-bcdlps][-rwxsStT]{9}\S* +\d+ +[\d/]{10} [\d:]{8} (.+?)(?: -> .*)?")
_ABSENT = "No such file or directory"


@dataclass(frozen=True, slots=True)
class Destination:
    """A folder for rsync, on another host or, if `host` is empty, on this one. `prefix` and `path`
    together are what rsync gets."""

    host: str
    prefix: str
    path: str

    def __str__(self) -> str:
        return f"{self.prefix}{self.path}"

    @classmethod
    def parse(cls, text: str) -> Destination:
        """`HOST:/PATH`, `HOST::MODULE/PATH`, `rsync://HOST/MODULE/PATH`, or a local path with a
        slash. Raises CarryError for anything else."""
        if text.startswith("-"):
            raise CarryError(
                f"{text} is not a destination. Write HOST:/PATH, and the options of rsync last, "
                "after --."
            )
        remote = re.fullmatch(
            r"(rsync://([^/]+)/|((?:[^/:\[]*@)?(?:\[[^/\]]*\]|[^/:]*))::?)(.*)", text, re.DOTALL
        )
        if remote:
            prefix, path = remote[1], remote[4]
            host = (remote[2] or remote[3] or "").rpartition("@")[2]
            if not host or not path:
                raise CarryError(
                    f"{text!r} has no path, so rsync would use the home folder there. Write "
                    "HOST:/PATH, for example mirror.site:/srv/hubmirror/data."
                    if host
                    else f"{text!r} has no host. Write HOST:/PATH."
                )
            return cls(host, prefix, path)
        if "/" not in text:
            raise CarryError(
                f"{text!r} is neither HOST:/PATH nor a path. For the host of this name, write "
                f"{text or 'HOST'}:/PATH. For a folder on this host, write ./{text or 'FOLDER'}."
            )
        return cls("", "", text)

    @property
    def is_daemon(self) -> bool:
        return self.prefix.startswith("rsync://") or self.prefix.endswith("::")

    def command(self, *words: str) -> str:
        """A shell command for the host of this destination, to show to the operator."""
        return " ".join([f"ssh {self.host}", *words] if self.host else words)

    def prepare(self, options: Sequence[str], *, dry_run: bool = False) -> None:
        """Check the destination, and mark it as a data folder.

        Raises CarryError, before anything is copied, for a folder of something else, for a folder
        whose parent is absent, and for a file system without symlinks.
        """
        found = self._entries(options)
        if found is None:
            self._check_parent(options)
        elif not found & set(_MARKS) and found - {_OF_THE_DISK}:
            some = ", ".join(sorted(found - {_OF_THE_DISK})[:3])
            mark = f"{self.path.rstrip('/')}/{_MARKS[0]}"
            raise CarryError(
                f"{self} has files ({some}), and is not a data folder of hubmirror: it has no "
                f"{_MARKS[0]}. Nothing was copied or deleted. Name an empty folder. If it is a "
                f"data folder, mark it: {self.command('mkdir', mark)}"
            )
        if not dry_run and _MARKS[1] not in (found or ()):
            self._mark(options)

    def _entries(self, options: Sequence[str]) -> set[str] | None:
        """The names in the folder, and the marks below it; None if it does not exist."""
        found: set[str] = set()

        def note(line: str) -> None:
            if entry := _ENTRY.fullmatch(line):
                found.add(entry[1])

        words = ["--list-only", "--recursive", *_FILTERS, *options]
        try:
            rsync([*words, f"{str(self).rstrip('/')}/"], printed=note)
        except RsyncError as exc:
            if any(_ABSENT in message for message in exc.messages) and not self.is_daemon:
                return None
            raise CarryError(f"{self} cannot be read: {exc}. Nothing was copied.") from exc
        return found - {"."}

    def _check_parent(self, options: Sequence[str]) -> None:
        """rsync creates the folder, but not its parent, which may be a disk that is not mounted."""
        parent = str(Path(self.path).parent)
        try:
            rsync(["--list-only", "--dirs", *options, f"{self.prefix}{parent}/"])
        except RsyncError as exc:
            raise CarryError(
                f"{self} does not exist, and neither does the folder above it ({parent}). If it "
                "is on a disk of its own, mount the disk. Otherwise create it: "
                f"{self.command('mkdir -p', self.path)}"
            ) from exc

    def _mark(self, options: Sequence[str]) -> None:
        """Create `hub/.hubmirror` with a symlink and a file: some file systems refuse symlinks, or
        the modes that rsync sets."""
        with tempfile.TemporaryDirectory() as name:
            source = Path(name, "source")
            work = source / _MARKS[1]
            work.mkdir(parents=True)
            (work / "symlink").symlink_to(".")
            (work / "file").touch()
            for folder in (source, source / "hub", work):
                folder.chmod(0o755)
            try:
                rsync(["--recursive", "--links", *options, f"{source}/", str(self)])
            except RsyncError as exc:
                refused = ("symlink", "failed to set permissions")
                hint = (
                    "rsync needs a file system with symlinks and modes, such as ext4, XFS or NFS. "
                    "Otherwise use `hubmirror bundle`."
                    if any(message.startswith(refused) for message in exc.messages)
                    else "Correct the cause, and run the command again."
                )
                raise CarryError(f"{self} cannot be written: {exc}. {hint}") from exc
