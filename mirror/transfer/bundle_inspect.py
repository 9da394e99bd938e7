"""Lists what a bundle contains, from its manifest alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.core.repo import Repo

if TYPE_CHECKING:
    from mirror.transfer.bundle_manifest import Item, Manifest


@dataclass(slots=True)
class Part:
    """A repository of a bundle, or a folder outside of hub/. `commits` are the revisions whose
    records it contains; `size` are the bytes of its files in the volumes."""

    name: str
    commits: list[str] = field(default_factory=list)
    files: int = 0
    size: int = 0


def parts(manifest: Manifest) -> list[Part]:
    """The parts of a bundle, sorted by name, repositories first. The same content counts once."""
    found: dict[tuple[bool, str], Part] = {}
    offsets: set[int | None] = {None}
    for item in manifest.items:
        top, _, rest = item.name.partition("/")
        folder, _, place = rest.partition("/")
        repo = Repo.from_folder_name(folder) if top == "hub" else None
        name = str(repo) if repo else top
        part = found.setdefault((repo is None, name), Part(name))
        if repo and place.startswith("hubmirror/"):
            part.commits.append(place.removeprefix("hubmirror/").removesuffix(".json"))
        else:
            part.files += 1
        part.size += _new_size(item, offsets)
    return [part for _, part in sorted(found.items())]


def _new_size(item: Item, offsets: set[int | None]) -> int:
    if item.offset in offsets:
        return 0
    if item.size:
        offsets.add(item.offset)
    return item.size
