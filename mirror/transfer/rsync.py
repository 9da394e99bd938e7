"""Copies the data folder with rsync. Readers never see a part of a revision."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The files that lead a reader to the payload. Each group may arrive only after the groups before.
_REFS = ("/hub/*/refs", "/git/*/*/*/refs", "/git/*/*/*/packed-refs", "/git/*/*/*/HEAD",
         "/bentoml/models/*/latest")  # fmt: skip
_POINTERS = (("/hub/*/snapshots", "/hub/*/trees"), ("/hub/*/hubmirror", "/openllm"), _REFS)
_PAYLOAD = ("/hub/*/blobs", "/hub/*/snapshots", "/hub/*/trees", "/hub/*/.no_exist")
_LOCAL = ("/.hubmirror", "/hub/.hubmirror", "/hub/.locks", ".rsync-partial")
_FLAGS = (
    "--archive", "--hard-links", "--copy-dirlinks", "--partial-dir=.rsync-partial",
    "--omit-dir-times", "--human-readable",
)  # fmt: skip
_VANISHED = 24
_VISIBLE_PASSES = ("refs", "removals of revisions", "removals of files")
"""The passes that change what readers see: they run after the records."""

_CAUSES = {
    10: "the connection failed",
    11: "a file cannot be written at the destination, or its disk is full",
    12: "the destination ended the connection (is rsync installed there? is its disk full?)",
    20: "rsync was interrupted",
    23: "some files could not be copied",
    30: "the destination did not answer in time",
    255: "ssh failed",
}


def push(
    data: Path,
    destination: str,
    *,
    delete: bool = False,
    options: tuple[str, ...] = (),
    notify: Callable[[str], None] = lambda _: None,
) -> None:
    """Copy `data` to `HOST:/path` or a folder. An interrupted push continues at the next call.

    `delete` removes files at the destination that `data` does not have, in two last passes: first
    the refs, records and links, then the rest. `options` are passed to rsync. `notify` receives
    the name of each pass, and warnings. Raises CarryError.
    """
    if shutil.which("rsync") is None:
        raise CarryError("rsync is not installed on this host. Run apt-get install rsync.")
    _check(data, destination, delete=delete)
    for name, filters in _passes(delete=delete):
        notify(name)
        command = ["rsync", *_FLAGS, *filters, *options, f"{data.absolute()}/", destination]
        code = subprocess.run(command, check=False).returncode  # noqa: S603
        if code == _VANISHED:
            notify(
                "Some files vanished while rsync copied them: another process changes the data "
                "folder."
            )
        elif code:
            cause = _CAUSES.get(code, f"its exit status is {code}")
            unchanged = (
                "" if name in _VISIBLE_PASSES else "The destination serves the same as before. "
            )
            raise CarryError(
                f"rsync failed in the pass {name!r}: {cause}. Its messages are above. {unchanged}"
                "Run the same command again to continue."
            )


def _check(data: Path, destination: str, *, delete: bool) -> None:
    """Raises CarryError for arguments that are wrong or dangerous."""
    if not data.is_dir():
        raise CarryError(f"The data folder {data} does not exist. Name another with --data.")
    if destination.startswith("-"):
        raise CarryError(
            f"{destination} is not a destination. Write HOST:/path, and the options of rsync last, "
            "after --."
        )
    if ":" not in destination and Path(destination).resolve().is_relative_to(data.resolve()):
        raise CarryError(
            f"{destination} is inside the data folder. Name a destination outside of it."
        )
    if delete and not any((data / "hub").glob("*--*")):
        raise CarryError(
            f"{data} has no repository, so --delete would delete all files at the destination. "
            "Check that the disk of the data folder is mounted."
        )


def _passes(*, delete: bool) -> Iterator[tuple[str, list[str]]]:
    """The name and the rsync filters of each pass, in order."""
    local = [f"--exclude={pattern}" for pattern in _LOCAL]
    for number, name in enumerate(("files", "snapshots", "records")):
        later = [pattern for group in _POINTERS[number:] for pattern in group]
        yield name, local + [f"--exclude={pattern}" for pattern in later]
    # --checksum: a ref that moved within a second has the same size and mtime.
    refs = [f"--include={pattern}{end}" for pattern in _REFS for end in ("", "/***")]
    yield (
        _VISIBLE_PASSES[0],
        ["--checksum", "--prune-empty-dirs", *local, "--include=*/", *refs, "--exclude=*"],
    )
    if delete:
        payload = [f"--exclude={pattern}" for pattern in _PAYLOAD]
        yield _VISIBLE_PASSES[1], [*local, "--delete", *payload]
        yield _VISIBLE_PASSES[2], [*local, "--delete"]
