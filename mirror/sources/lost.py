"""Files of a revision that its folder does not hold, although its owner wanted them.

A cache is often partial on purpose: `snapshot_download` with patterns, or a model that was loaded
and needed a few files only. What the folder itself shows was wanted, and is not here, is lost. A
client that leaves it out would succeed with a broken model.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from mirror.core.errors import RequestError
from mirror.core.tree import check_file_path, listed_path
from mirror.derived.proofs import is_index, shards_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

UNFINISHED = "its copy or download is not finished"
_WEIGHTS = (
    ".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx",
)  # fmt: skip
_PART = re.compile(r"(.+-)(\d{5})(-of-)(\d{5})(\.(?:gguf|safetensors))")
_MAX_PARTS = 2000


def name_problem(path: str) -> str:
    """The reason why no client can ask for a path; empty if a client can."""
    if listed_path(path) != path:
        return "its name has bytes that are not UTF-8, or a backslash"
    try:
        check_file_path(path)
    except RequestError:
        return "its path is too long or too deep"
    return ""


def lost_shards(
    here: Collection[str], locations: Mapping[str, str], *, is_whole: bool
) -> dict[str, str]:
    """Weight files that other files of the revision name, and that are not `here`, each with the
    reason. `locations` maps the paths of the files that can be read to their places on the disk.

    An index of which no file is here belongs to a format that its owner left out. But if the
    folder is all that there is of the repository (`is_whole`), the index is right where no other
    weights are beside it.
    """
    lost: dict[str, str] = {}
    for group, named_by in _groups(here, locations):
        absent = group - set(here)
        folder = named_by.rpartition("/")[0]
        is_left_out = absent == group and not (is_whole and not _has_weights(folder, here))
        if absent and not is_left_out:
            lost = dict.fromkeys(absent, f"it is not here, and {named_by} needs it") | lost
    return lost


def _groups(
    here: Collection[str], locations: Mapping[str, str]
) -> Iterator[tuple[frozenset[str], str]]:
    """The weight files that belong together, and the path of the file that names them."""
    for path, location in locations.items():
        if is_index(path):
            folder = path.rpartition("/")[0]
            yield frozenset(f"{folder}/{one}".lstrip("/") for one in shards_of(location)), path
    for path in here:
        match = _PART.fullmatch(path)
        if match and int(match[2]) == 1 <= int(match[4]) <= _MAX_PARTS:
            start, _, of, count, suffix = match.groups()
            parts = (f"{start}{number:05}{of}{count}{suffix}" for number in _numbers(count))
            yield frozenset(parts), path


def _numbers(count: str) -> range:
    return range(1, int(count) + 1)


def _has_weights(folder: str, here: Collection[str]) -> bool:
    return any(path.rpartition("/")[0] == folder and path.endswith(_WEIGHTS) for path in here)


def unfinished_blobs(blobs: str) -> frozenset[str]:
    """The digests of the blobs that huggingface_hub began to download and did not finish."""
    try:
        names = os.listdir(blobs)
    except OSError:
        return frozenset()
    return frozenset(name.partition(".")[0] for name in names if name.endswith(".incomplete"))
