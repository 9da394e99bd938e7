"""Bundles whose volumes are cut, exchanged or missing, or whose manifest leaves gaps."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.carried import hubmirror, names_below, put_grown
from tests.folders import write

Manifest = dict[str, Any]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A bundle of nine volumes, all but the last of the same size."""
    put_grown(tmp_path / "data", 0)
    words = "bundle", "create", str(tmp_path / "disk"), "--split", "150K"
    hubmirror(tmp_path / "data", *words)
    return tmp_path / "disk"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where it goes, which holds a revision already."""
    put_grown(tmp_path / "site", 1)
    return tmp_path / "site"


def seal(folder: Path, change: Callable[[Manifest], object]) -> None:
    """Change a manifest, and give it the digest that fits."""
    file = folder / "manifest.json"
    manifest = orjson.loads(file.read_bytes())
    change(manifest)
    del manifest["sha256"]
    body = orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)
    file.write_bytes(orjson.dumps({**manifest, "sha256": hashlib.sha256(body).hexdigest()}))


def _volumes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.bin"))


def _exchange(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _swap(folder: Path) -> None:
    first, second, *_ = _volumes(folder)
    _exchange(first, second)


def _turn(folder: Path) -> None:
    """Each volume has the name of the one after it."""
    volumes = _volumes(folder)[:-1]
    bodies = [path.read_bytes() for path in volumes]
    for path, body in zip(volumes, bodies[1:] + bodies[:1], strict=True):
        path.write_bytes(body)


def _repeat(folder: Path) -> None:
    first, second, *_ = _volumes(folder)
    shutil.copy(first, second)


def _swap_with_last(folder: Path) -> None:
    _exchange(_volumes(folder)[0], _volumes(folder)[-1])


def _empty(folder: Path) -> None:
    os.truncate(_volumes(folder)[2], 0)


def _hole(folder: Path) -> None:
    """A piece in the middle never came, and the size is right."""
    with _volumes(folder)[3].open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))


def _half(folder: Path) -> None:
    size = _volumes(folder)[4].stat().st_size
    os.truncate(_volumes(folder)[4], size // 2)
    os.truncate(_volumes(folder)[4], size)


def _make_folder(folder: Path) -> None:
    path = _volumes(folder)[1]
    path.unlink()
    path.mkdir()


def _make_link(folder: Path) -> None:
    path = _volumes(folder)[1]
    path.rename(folder.parent / "aside")
    path.symlink_to(folder.parent / "aside")


def _make_device(folder: Path) -> None:
    path = _volumes(folder)[1]
    path.unlink()
    path.symlink_to("/dev/zero")


def _make_fifo(folder: Path) -> None:
    path = _volumes(folder)[1]
    path.unlink()
    os.mkfifo(path)


def _all_gone(folder: Path) -> None:
    for path in _volumes(folder):
        path.unlink()


DAMAGES = (
    _swap, _turn, _repeat, _swap_with_last, _empty, _hole, _half, _make_folder, _make_link,
    _make_device, _make_fifo, _all_gone,
)  # fmt: skip


def _refused(site: Path, disk: Path) -> str:
    before, kept = names_below(site), (site / "hub/models--Org--Model/refs/main").read_text()
    said = hubmirror(site, "bundle", "apply", str(disk), status=1).output
    assert said.splitlines()[-1].startswith("Error: ")
    assert names_below(site) == before
    assert (site / "hub/models--Org--Model/refs/main").read_text() == kept
    return said


@pytest.mark.parametrize("damage", DAMAGES, ids=[one.__name__[1:] for one in DAMAGES])
def test_damaged_volumes_change_nothing(
    disk: Path, site: Path, damage: Callable[[Path], None]
) -> None:
    names = [path.name for path in _volumes(disk)]
    damage(disk)
    said = _refused(site, disk)
    assert any(name in said for name in names)


def test_volumes_of_another_bundle(disk: Path, site: Path, tmp_path: Path) -> None:
    """They have the same names and the same sizes."""
    put_grown(tmp_path / "more", 5)
    words = "bundle", "create", str(tmp_path / "other"), "--split", "150K"
    hubmirror(tmp_path / "more", *words)
    shutil.copy(_volumes(tmp_path / "other")[0], _volumes(disk)[0])
    assert _volumes(disk)[0].name in _refused(site, disk)


def test_a_volume_that_changes_between_two_runs(disk: Path, site: Path) -> None:
    """What a run that failed has found right is looked at again."""
    last = _volumes(disk)[-1]
    body = last.read_bytes()
    last.unlink()
    _refused(site, disk)
    last.write_bytes(body)
    _swap(disk)
    assert "damaged" in _refused(site, disk)


@pytest.mark.parametrize("length", [0, 1, 100, -1, -2, -100])
def test_a_manifest_that_is_cut(disk: Path, site: Path, length: int) -> None:
    body = (disk / "manifest.json").read_bytes()
    (disk / "manifest.json").write_bytes(body[:length])
    _refused(site, disk)


def _drop(number: int) -> Callable[[Manifest], object]:
    return lambda manifest: manifest["volumes"].pop(number)


def _shift(number: int, count: int) -> Callable[[Manifest], object]:
    def change(manifest: Manifest) -> None:
        manifest["volumes"][number]["offset"] += count

    return change


def _grow(number: int, count: int) -> Callable[[Manifest], object]:
    def change(manifest: Manifest) -> None:
        manifest["volumes"][number]["size"] += count

    return change


def _item(**fields: Any) -> Callable[[Manifest], object]:
    return lambda manifest: manifest["items"][0].update(fields)


def _exchange_digests(manifest: Manifest) -> None:
    first, second = manifest["volumes"][:2]
    first["sha256"], second["sha256"] = second["sha256"], first["sha256"]


def _exchange_offsets(manifest: Manifest) -> None:
    one, other = manifest["items"][0], manifest["items"][-1]
    one["offset"], other["offset"] = other["offset"], one["offset"]


def _move_items(manifest: Manifest) -> None:
    """Every file begins a byte later, and the last ends behind the stream."""
    for item in manifest["items"]:
        item["offset"] += 1


CHANGES: dict[str, Callable[[Manifest], object]] = {
    "no first volume": _drop(0),
    "no volume in the middle": _drop(4),
    "no last volume": _drop(-1),
    "no volume": lambda manifest: manifest["volumes"].clear(),
    "a gap": _shift(3, 1),
    "an overlap": _shift(3, -1),
    "a larger volume": _grow(-1, 1),
    "a smaller volume": _grow(-1, -1),
    "volumes in another order": lambda manifest: manifest["volumes"].reverse(),
    "a volume twice": lambda manifest: manifest["volumes"].append(manifest["volumes"][-1]),
    "exchanged digests": _exchange_digests,
    "exchanged offsets": _exchange_offsets,
    "moved files": _move_items,
    "a file that ends behind the last volume": _item(size=10**9),
    "a file whose end no number holds": _item(offset=2**63 - 1, size=2**63 - 1),
    "no file": lambda manifest: manifest["items"].clear(),
    "one file less": lambda manifest: manifest["items"].pop(),
    "no list of what it holds": lambda manifest: manifest["holds"].clear(),
    "a larger list of what it holds": lambda manifest: manifest["holds"].update(
        {f"hub/models--Org--Model/blobs/{40 * 'a'}": 40 * "a"}
    ),
    "a base that nobody has": lambda manifest: manifest.update(
        since=32 * "a", holds=manifest["holds"] | {"notes.txt": 64 * "a"}
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_that_does_not_fit_its_volumes(disk: Path, site: Path, name: str) -> None:
    seal(disk, CHANGES[name])
    _refused(site, disk)


def test_the_bundle_itself_is_applied(disk: Path, site: Path) -> None:
    """Else what is said above would say little; an unknown file beside it harms nothing."""
    write(disk / "theirs.txt", b"x")
    seal(disk, lambda _: None)
    hubmirror(site, "bundle", "apply", str(disk))
    assert "No problems found." in hubmirror(site, "verify").stdout


def _hold_under_another_name(manifest: Manifest) -> None:
    """The other side is said to have a content under the name of another blob."""
    name, digest = next((n, d) for n, d in manifest["holds"].items() if "/blobs/" in n)
    manifest["holds"][name] = ("0" if digest[0] != "0" else "1") + digest[1:]


CARRIED: dict[str, str | Callable[[Manifest], object]] = {
    "bytes under another blob's name": _hold_under_another_name,
    "a git config": "git/github.com/a/b.git/config",
    "a git hook": "git/github.com/a/b.git/hooks/post-checkout",
    "another object store": "git/github.com/a/b.git/objects/info/alternates",
    "a configuration of hubmirror": "hubmirror.toml",
    "a path that leads out": "../victim",
    "1,500 levels": "/".join(1500 * "d"),
}


@pytest.mark.parametrize("name", CARRIED)
def test_what_no_bundle_carries(disk: Path, site: Path, name: str) -> None:
    change = CARRIED[name]
    if isinstance(change, str):
        item = {"name": change, "size": 0, "digest": hashlib.sha256(b"").hexdigest(), "offset": 0}
        seal(disk, lambda manifest: manifest["items"].append(item))
    else:
        seal(disk, change)
    before = names_below(site)
    said = hubmirror(site, "bundle", "apply", str(disk), status=1).output
    assert "is damaged" in said
    assert names_below(site) == before


def test_a_bundle_leaves_out_what_git_obeys(tmp_path: Path) -> None:
    put_grown(tmp_path / "data", 0)
    bare = tmp_path / "data" / "git" / "github.com" / "a" / "b.git"
    for name in ("HEAD", "config", "hooks/post-checkout", "refs/heads/main", "packed-refs"):
        write(bare / name, b"x")
    hubmirror(tmp_path / "data", "bundle", "create", str(tmp_path / "disk"))
    manifest = orjson.loads((tmp_path / "disk" / "manifest.json").read_bytes())
    carried = {one["name"] for one in manifest["items"] if one["name"].startswith("git/")}
    start = "git/github.com/a/b.git"
    assert carried == {f"{start}/HEAD", f"{start}/refs/heads/main", f"{start}/packed-refs"}
