"""Copying the data folder elsewhere by rsync, in an order in which no reader sees half of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What a reader follows to the payload, in the order in which it may arrive.
_REFS = ("/hub/*/refs", "/git/*/*/*/refs", "/git/*/*/*/packed-refs", "/git/*/*/*/HEAD",
         "/bentoml/models/*/latest")  # fmt: skip
_POINTERS = (("/hub/*/snapshots", "/hub/*/trees"), ("/hub/*/hubmirror", "/openllm"), _REFS)
_PAYLOAD = ("/hub/*/blobs", "/hub/*/snapshots", "/hub/*/trees", "/hub/*/.no_exist")
_OURS = ("/.hubmirror", "/hub/.hubmirror", "/hub/.locks", ".rsync-partial")
_FLAGS = (
    "--archive", "--hard-links", "--copy-dirlinks", "--partial-dir=.rsync-partial",
    "--omit-dir-times", "--human-readable",
)  # fmt: skip
_VANISHED = 24
_VISIBLE_PASSES = ("refs", "removals of revisions", "removals of files")
"""The passes that change what readers see."""

_CAUSES = {
    10: "the connection failed",
    11: "a file cannot be written there, or the disk is full",
    12: "the other side ended it (is rsync installed there, and is its disk full?)",
    20: "it was interrupted",
    23: "some files could not be copied",
    30: "the other side did not answer in time",
    255: "ssh failed",
}


def push(
    data: Path,
    destination: str,
    *,
    delete: bool = False,
    options: tuple[str, ...] = (),
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Copy `data` to `HOST:/path` or a folder. Run again, it goes on where it was.

    With `delete` what is not here any more is removed there, pointers first, at the very end.
    `options` are handed to rsync. Raises CarryError.
    """
    if shutil.which("rsync") is None:
        raise CarryError("rsync is not installed here: apt-get install rsync.")
    _check(data, destination, delete=delete)
    for text, filters in _passes(delete=delete):
        told(text)
        command = ["rsync", *_FLAGS, *filters, *options, f"{data.absolute()}/", destination]
        code = subprocess.run(command, check=False).returncode  # noqa: S603
        if code == _VANISHED:
            told("Some files vanished while they were copied: something works in the data folder.")
        elif code:
            cause = _CAUSES.get(code, f"its exit status is {code}")
            unrecorded = (
                "" if text in _VISIBLE_PASSES else "Nothing that readers saw there has changed. "
            )
            raise CarryError(
                f"rsync failed at {text}: {cause}. What it said is above. {unrecorded}"
                "Run the same command again to go on."
            )


def _check(data: Path, destination: str, *, delete: bool) -> None:
    """Raises CarryError for a copy that cannot be meant."""
    if not data.is_dir():
        raise CarryError(f"The data folder {data} is not there. Name another with --data.")
    if destination.startswith("-"):
        raise CarryError(
            f"{destination} is no place to copy to: write HOST:/path, and rsync's options last, "
            "after --."
        )
    if ":" not in destination and Path(destination).resolve().is_relative_to(data.resolve()):
        raise CarryError(f"{destination} lies in the data folder itself. Name another place.")
    if delete and not any((data / "hub").glob("*--*")):
        raise CarryError(
            f"{data} holds no repository, and --delete would empty the other side: is its disk "
            "mounted?"
        )


def _passes(*, delete: bool) -> Iterator[tuple[str, list[str]]]:
    ours = [f"--exclude={one}" for one in _OURS]
    for number, name in enumerate(("files", "snapshots", "records")):
        later = [one for group in _POINTERS[number:] for one in group]
        yield name, ours + [f"--exclude={one}" for one in later]
    # A ref that moved within a second has another content alone.
    refs = [f"--include={one}{end}" for one in _REFS for end in ("", "/***")]
    yield (
        _VISIBLE_PASSES[0],
        ["--checksum", "--prune-empty-dirs", *ours, "--include=*/", *refs, "--exclude=*"],
    )
    if delete:
        yield _VISIBLE_PASSES[1], [*ours, "--delete", *(f"--exclude={x}" for x in _PAYLOAD)]
        yield _VISIBLE_PASSES[2], [*ours, "--delete"]
