"""Copying the data folder elsewhere by rsync, in an order in which no reader sees half of it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from mirror.errors import CarryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# What a reader follows to the payload, in the order in which it may arrive.
_POINTERS = (
    ("/hub/*/snapshots", "/hub/*/trees"),
    ("/hub/*/hubmirror", "/openllm"),
    ("/hub/*/refs", "/git/*/*/*/refs", "/git/*/*/*/packed-refs", "/git/*/*/*/HEAD",
     "/bentoml/models/*/latest"),
)  # fmt: skip
_PAYLOAD = ("/hub/*/blobs", "/hub/*/snapshots", "/hub/*/trees", "/hub/*/.no_exist")
_OURS = ("/.hubmirror", "/hub/.hubmirror", "/hub/.locks", ".rsync-partial")
_FLAGS = (
    "--archive", "--hard-links", "--partial-dir=.rsync-partial", "--omit-dir-times",
    "--human-readable",
)  # fmt: skip
_CAUSES = {
    10: "the connection failed",
    11: "a file cannot be written there, or the disk is full",
    12: "the other side ended it: is rsync installed there, and is its disk full?",
    20: "it was interrupted",
    23: "some files could not be copied",
    24: "files vanished while they were copied",
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
    if not data.is_dir():
        raise CarryError(f"The data folder {data} is not there. Name another with --data.")
    for text, filters in _passes(delete=delete):
        told(text)
        command = ["rsync", *_FLAGS, *filters, *options, f"{data.absolute()}/", destination]
        code = subprocess.run(command, check=False).returncode  # noqa: S603
        if code:
            cause = _CAUSES.get(code, f"its exit status is {code}")
            raise CarryError(
                f"rsync failed while it copied {text}: {cause}. What it said is above. Nothing "
                "that readers saw there has changed; run the same command again to go on."
            )


def _passes(*, delete: bool) -> Iterator[tuple[str, list[str]]]:
    ours = [f"--exclude={one}" for one in _OURS]
    names = ("files", "snapshots", "records", "refs")
    for number, name in enumerate(names):
        later = [one for group in _POINTERS[number:] for one in group]
        yield name, ours + [f"--exclude={one}" for one in later]
    if delete:
        yield "removals of revisions", [*ours, "--delete", *(f"--exclude={x}" for x in _PAYLOAD)]
        yield "removals of files", [*ours, "--delete"]
