"""`hubmirror bundle`: a data folder in volumes on a disk."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from mirror.core.repo import Repo
from mirror.maintenance.garbage import collect, find_garbage
from mirror.store.cache import Cache
from mirror.store.progress import Event, FileBegan, FileDone, Planned
from mirror.store.publish import publish
from mirror.transfer import bundle_apply, bundle_create
from tests.carried import (
    KILLS,
    TWIN,
    Killer,
    blob,
    digests_of,
    flip,
    grown,
    hubmirror,
    names_below,
    offline_files,
    put,
    put_grown,
    reading,
    roomy_folder,
)
from tests.folders import COMMIT, MODEL, OLDER, Content, repo_dir, write
from tests.servers import run_command

_FORBIDDEN = re.compile(r'[\x00-\x1f"*/:<>?\\|]')
_MORE = {
    "bentoml/models/org--model/abc/model.safetensors": b"weights" * 1000,
    "bentoml/models/org--model/latest": b"abc",
    "notes.txt": b"",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two repositories with the same shards, one with two revisions, and files outside hub/."""
    data = tmp_path / "data"
    put_grown(data, 0)
    put_grown(data, 1)
    put_grown(data, 1, TWIN)
    for name, body in _MORE.items():
        write(data / name, body)
    return data


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The data folder of the second host."""
    return tmp_path / "site"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A bundle with small volumes: files span several volumes."""
    return tmp_path / "disk"


def _create(data: Path, out: Path, *words: str, split: str = "150K", status: int = 0) -> str:
    words = "bundle", "create", str(out), "--split", split, *words
    return hubmirror(data, *words, status=status).output


def _apply(site: Path, folder: Path, status: int = 0) -> str:
    return hubmirror(site, "bundle", "apply", str(folder), status=status).output


def _volumes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.bin"))


def _ref(site: Path, name: str = "main") -> str:
    return (repo_dir(site / "hub") / "refs" / name).read_text()


@pytest.mark.parametrize("split", ["64G", "150K", "99999"])
def test_apply_restores_all_files(data: Path, site: Path, disk: Path, split: str) -> None:
    _create(data, disk, split=split)
    _apply(site, disk)
    assert names_below(site) == names_below(data)
    assert {name: (site / name).read_bytes() for name in _MORE} == _MORE
    assert "No problems found." in hubmirror(site, "verify").stdout
    assert offline_files(site / "hub", TWIN) == digests_of(grown(1, TWIN))


def test_volumes_respect_the_split_size(data: Path, disk: Path) -> None:
    _create(data, disk)
    sizes = [path.stat().st_size for path in _volumes(disk)]
    assert set(sizes[:-1]) == {150_000}
    assert 0 < sizes[-1] <= 150_000


def test_the_same_content_is_bundled_once_and_stored_once(
    data: Path, site: Path, disk: Path
) -> None:
    _create(data, disk)
    _apply(site, disk)
    first, twin = grown(1), grown(1, TWIN)
    shards = {name: body for name, body in first.files.items() if name.startswith("model-")}
    for name in shards:
        assert blob(site / "hub", first, name).samefile(blob(site / "hub", twin, name))
    distinct = {body for body in (*grown(0).files.values(), *shards.values())}
    carried = sum(path.stat().st_size for path in _volumes(disk))
    assert carried < sum(map(len, distinct)) + 30_000


def test_volume_names_fit_any_file_system(data: Path, disk: Path) -> None:
    put(data / "hub", Content({'a:b?*"<>|.txt': b"odd", "con": b"odd", "A": b"", "a": b"b"}))
    _create(data, disk)
    paths = list(disk.rglob("*"))
    names = [path.name for path in paths]
    assert not [name for name in names if _FORBIDDEN.search(name) or name[-1] in ". "]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(path.is_file() and not path.is_symlink() for path in paths)
    assert {path.stat().st_nlink for path in paths} == {1}


def test_only_new_files_are_bundled(data: Path, site: Path, disk: Path, tmp_path: Path) -> None:
    _create(data, disk)
    _apply(site, disk)
    put_grown(data, 2)
    write(data / "bentoml/models/org--model/latest", b"def")
    for number, name in ((2, "second"), (3, "third")):
        base = tmp_path / ("second" if number == 3 else "disk")
        put_grown(data, number)
        _create(data, tmp_path / name, "--since", str(base))
        carried = sum(path.stat().st_size for path in _volumes(tmp_path / name))
        assert carried < 3 * 200_010
        _apply(site, tmp_path / name)
    assert names_below(site) == names_below(data)
    assert _ref(site) == grown(3).commit_hash
    assert (site / "bentoml/models/org--model/latest").read_bytes() == b"def"
    hubmirror(site, "verify")


def test_since_needs_only_the_manifest(data: Path, site: Path, disk: Path, tmp_path: Path) -> None:
    _create(data, disk)
    _apply(site, disk)
    for volume in _volumes(disk):
        volume.unlink()
    put_grown(data, 2)
    _create(data, tmp_path / "next", "--since", str(disk))
    _apply(site, tmp_path / "next")
    assert names_below(site) == names_below(data)


def test_a_bundle_without_new_files(data: Path, site: Path, disk: Path, tmp_path: Path) -> None:
    _create(data, disk)
    _apply(site, disk)
    before = names_below(site)
    _create(data, tmp_path / "next", "--since", str(disk))
    assert _volumes(tmp_path / "next") == []
    _apply(site, tmp_path / "next")
    _apply(site, disk)
    assert names_below(site) == before


def test_a_bundle_whose_base_is_missing(data: Path, site: Path, disk: Path, tmp_path: Path) -> None:
    _create(data, disk)
    put_grown(data, 2)
    _create(data, tmp_path / "next", "--since", str(disk))
    site.mkdir()
    output = _apply(site, tmp_path / "next", status=1)
    bundle_id = orjson.loads((disk / "manifest.json").read_bytes())["bundle_id"]
    assert f"Apply the bundle {bundle_id} first." in output
    assert names_below(site) in ({}, {"hub": names_below(tmp_path)["site/hub"]})


def test_an_older_bundle_removes_no_files(data: Path, site: Path, tmp_path: Path) -> None:
    """A pull added files to the revision after the bundle was created."""
    part, whole = {"config.json": b"{}"}, {"config.json": b"{}", "w.bin": b"w" * 9}
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    for number, (files, at) in enumerate(zip((part, whole), times, strict=True)):
        put(data / "hub", Content(files, "d" * 40, Repo.parse("Org/Grows")), pulled_at=at)
        base = ("--since", str(tmp_path / "0")) if number else ()
        _create(data, tmp_path / str(number), *base)
    for number in (0, 1, 0):
        _apply(site, tmp_path / str(number))
    rows = map(orjson.loads, hubmirror(site, "ls", "--json").stdout.splitlines())
    (row,) = (row for row in rows if row["repo_id"] == "Org/Grows")
    assert (row["files"], row["status"]) == (2, "complete")


@pytest.mark.parametrize("change", ["beside", "record"])
def test_a_skipped_bundle_is_detected(data: Path, site: Path, tmp_path: Path, change: str) -> None:
    """The skipped bundle had no new blob and no new name."""
    _create(data, tmp_path / "1")
    _apply(site, tmp_path / "1")
    if change == "beside":
        write(data / "notes.txt", b"changed")
    else:
        cache = Cache.of(data / "hub")
        record = cache.folder(MODEL).read_record(grown(1).commit_hash)
        publish(cache.root, replace(record, refs=(*record.refs, "refs/tags/v1")))
    _create(data, tmp_path / "2", "--since", str(tmp_path / "1"))
    put_grown(data, 2)
    _create(data, tmp_path / "3", "--since", str(tmp_path / "2"))
    assert "Apply the bundle " in _apply(site, tmp_path / "3", status=1)
    for name in ("2", "3"):
        _apply(site, tmp_path / name)
    assert names_below(site) == names_below(data)


def test_a_base_copied_by_rsync_is_accepted(data: Path, site: Path, tmp_path: Path) -> None:
    _create(data, tmp_path / "1")
    shutil.copytree(data, site, symlinks=True, ignore=shutil.ignore_patterns(".hubmirror"))
    put_grown(data, 2)
    _create(data, tmp_path / "2", "--since", str(tmp_path / "1" / "manifest.json"))
    _apply(site, tmp_path / "2" / "manifest.json")
    assert names_below(site) == names_below(data)


def test_blobs_of_a_base_copied_by_rsync_are_not_bundled(
    data: Path, site: Path, tmp_path: Path
) -> None:
    hubmirror(data, "rm", "Org/Twin")
    _create(data, tmp_path / "1")
    shutil.copytree(data, site, symlinks=True, ignore=shutil.ignore_patterns(".hubmirror"))
    put_grown(data, 1, TWIN)
    _create(data, tmp_path / "2", "--since", str(tmp_path / "1"))
    _apply(site, tmp_path / "2")
    assert names_below(site) == names_below(data)
    assert "No problems found." in hubmirror(site, "verify").stdout


def test_removed_repositories_at_the_site_are_not_needed(
    data: Path, site: Path, tmp_path: Path
) -> None:
    _create(data, tmp_path / "1")
    _apply(site, tmp_path / "1")
    hubmirror(site, "rm", "Org/Twin")
    put_grown(data, 2)
    _create(data, tmp_path / "2", "--since", str(tmp_path / "1"))
    _apply(site, tmp_path / "2")
    assert _ref(site) == grown(2).commit_hash
    put_grown(data, 2, TWIN)
    hubmirror(site, "rm", "Org/Model")
    _create(data, tmp_path / "3", "--since", str(tmp_path / "2"))
    output = _apply(site, tmp_path / "3", status=1)
    assert "this data folder lacks" in output
    assert not repo_dir(site / "hub", TWIN).exists()


def test_blobs_of_another_repository_at_the_site_are_not_bundled(
    data: Path, site: Path, tmp_path: Path
) -> None:
    hubmirror(data, "rm", "Org/Twin")
    _create(data, tmp_path / "1")
    _apply(site, tmp_path / "1")
    twin = put_grown(data, 1, TWIN)
    _create(data, tmp_path / "2", "--since", str(tmp_path / "1"))
    assert sum(path.stat().st_size for path in _volumes(tmp_path / "2")) < 30_000
    _apply(site, tmp_path / "2")
    name = "model-1.safetensors"
    assert blob(site / "hub", twin, name).samefile(blob(site / "hub", grown(1), name))
    assert "No problems found." in hubmirror(site, "verify").stdout


def test_omitted_and_refused_files_are_reported(data: Path, tmp_path: Path) -> None:
    write(repo_dir(data / "hub", Repo.parse("Org/New")) / "blobs" / ("a" * 64), b"x")
    output = _create(data, tmp_path / "1")
    assert "Org/New has no record, and is omitted" in output
    output = _create(data, data / "hub" / "out", status=1)
    assert "is inside the data folder" in output
    assert "Choose a larger --split" in _create(data, tmp_path / "2", split="1", status=1)
    for name in (b"a\\b", b"x\xff"):
        odd = data / "bentoml" / os.fsdecode(name)
        write(odd, b"x")
        assert "has a name that a bundle cannot contain" in _create(data, tmp_path / "3", status=1)
        odd.unlink()


def test_a_symlinked_folder_is_bundled(data: Path, site: Path, tmp_path: Path) -> None:
    (data / "bentoml").rename(tmp_path / "store")
    (data / "bentoml").symlink_to(tmp_path / "store")
    _create(data, tmp_path / "1")
    _apply(site, tmp_path / "1")
    assert (site / "bentoml/models/org--model/latest").read_bytes() == b"abc"


def test_volumes_of_a_killed_create_are_removed(data: Path, disk: Path) -> None:
    for name in ("hubmirror-0001.bin.partial", "hubmirror-0099.bin"):
        write(disk / name, bytes(1000))
    write(disk / "theirs.txt", b"x")
    _create(data, disk)
    assert not (disk / "hubmirror-0001.bin.partial").exists()
    assert not (disk / "hubmirror-0099.bin").exists()
    assert (disk / "theirs.txt").exists()


def test_a_volume_damaged_after_its_check_is_reported(data: Path, site: Path, disk: Path) -> None:
    _create(data, disk)
    with pytest.raises(_Stop):
        bundle_apply.apply(site, disk, report=_stop_at(5, "/blobs/"))
    volume = _volumes(disk)[-2]
    before = volume.stat()
    flip(volume)
    os.utime(volume, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert f"Volumes are damaged: {volume.name}." in _apply(site, disk, status=1)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [(flip, "damaged"), (Path.unlink, "missing"), (_cut, "wrong size"), (_append, "wrong size")],
)
@pytest.mark.parametrize("which", [0, 3, -1])
def test_a_damaged_volume_is_reported_and_changes_nothing(
    data: Path,
    site: Path,
    disk: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    expected: str,
    which: int,
) -> None:
    put_grown(site, 0)
    before = names_below(site)
    _create(data, disk)
    good = _volumes(disk)[which]
    shutil.copy2(good, tmp_path / "kept")
    damage(good)
    output = _apply(site, disk, status=1)
    assert expected in output
    assert [volume.name for volume in _volumes(disk) if volume.name in output] in ([good.name], [])
    assert good.name in output
    assert names_below(site) == before
    shutil.copy2(tmp_path / "kept", good)
    _apply(site, disk)
    hubmirror(site, "verify")
    assert _ref(site) == grown(1).commit_hash


def test_a_flipped_bit_in_the_manifest_changes_nothing(data: Path, site: Path, disk: Path) -> None:
    _create(data, disk)
    put_grown(site, 0)
    before = names_below(site)
    manifest = disk / "manifest.json"
    body = manifest.read_bytes()
    places = random.Random("places").sample(range(8 * len(body)), 60)
    taken = []
    for place in places:
        flipped = bytearray(body)
        flipped[place // 8] ^= 1 << place % 8
        manifest.write_bytes(flipped)
        try:
            output = _apply(site, disk, status=1)
        except AssertionError:
            taken.append(flipped[max(0, place // 8 - 40) : place // 8 + 20].decode("latin-1"))
        else:
            assert output.splitlines()[-1].startswith("Error: ")
        assert names_below(site) == before, "something changed"
    assert taken == []


def test_a_folder_that_is_not_a_bundle(site: Path, disk: Path) -> None:
    disk.mkdir()
    assert "is not a bundle" in _apply(site, disk, status=1)


def test_a_bundle_of_a_newer_version(data: Path, site: Path, disk: Path) -> None:
    _create(data, disk)
    _tamper(disk, lambda manifest: manifest.update(format_version=99))
    assert "newer hubmirror" in _apply(site, disk, status=1)


def _tamper(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest like an attacker who knows its format."""
    file = folder / "manifest.json"
    manifest = orjson.loads(file.read_bytes())
    change(manifest)
    if manifest.pop("sha256", ""):
        body = orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)
        manifest["sha256"] = hashlib.sha256(body).hexdigest()
    file.write_bytes(orjson.dumps(manifest))


def _rename(name: str) -> Callable[[dict[str, Any]], object]:
    """Rename the first file."""

    def change(manifest: dict[str, Any]) -> None:
        item = manifest["items"][0]
        manifest["holds"][name] = manifest["holds"].pop(item["name"])
        item["name"] = name

    return change


def _set(digest: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["items"][0].update(digest=digest)


_EVIL: dict[str, Callable[[dict[str, Any]], object]] = {
    "above": _rename("../victim"),
    "above hub": _rename("hub/../../victim"),
    "absolute": _rename("/tmp/victim"),
    "backslash": _rename("..\\victim"),
    "empty part": _rename("a//b"),
    "hub itself": _rename("hub"),
    "a file in hub": _rename("hub/victim"),
    "a file in a repository": _rename("hub/models--Org--Model/victim"),
    "a ref": _rename("hub/models--Org--Model/refs/main"),
    "under way": _rename("hub/.hubmirror/id"),
    "no repository": _rename(f"hub/victim/blobs/{'a' * 64}"),
    "a blob of another name": _rename(f"hub/models--Org--Model/blobs/{'a' * 64}"),
    "a blob that is none": _rename("hub/models--Org--Model/blobs/victim"),
    "derived facts": _rename(".hubmirror/digests/victim"),
    "null": _rename("a\0b"),
    "digest above": _set("../../../../../victim"),
    "digest absolute": _set("/{tmp}/victim"),
    "digest of another kind": _set("a" * 32),
    "id above": lambda manifest: manifest.update(bundle_id="../../../../victim"),
    "id absolute": lambda manifest: manifest.update(bundle_id="/{tmp}/victim"),
    "volume above": lambda manifest: manifest["volumes"][0].update(name="../victim"),
    "volume of another form": lambda manifest: manifest["volumes"][0].update(sha256=7),
    "beyond the end": lambda manifest: manifest["items"][0].update(offset=10**12),
    "less than nothing": lambda manifest: manifest["items"][0].update(size=-1, offset=-1),
    "of another form": lambda manifest: manifest.update(items={}),
    "a list": lambda manifest: manifest.update(holds=[]),
}


@pytest.mark.parametrize("name", _EVIL)
def test_an_evil_manifest_is_refused(
    data: Path, site: Path, disk: Path, tmp_path: Path, name: str
) -> None:
    _create(data, disk)
    _tamper(disk, _EVIL[name])
    text = (disk / "manifest.json").read_text()
    write(disk / "manifest.json", text.replace("/{tmp}", str(tmp_path)).encode())
    if "{tmp}" in text:
        _tamper(disk, lambda _: None)
    put_grown(site, 0)
    write(tmp_path / "victim", b"as it was")
    before = names_below(tmp_path)
    output = _apply(site, disk, status=1)
    assert output.splitlines()[-1].startswith("Error: ")
    assert names_below(tmp_path) == before
    assert (tmp_path / "victim").read_bytes() == b"as it was"
    work_dir = site / "hub" / ".hubmirror"
    assert not [path for path in work_dir.rglob("*") if path.name in ("id", "victim")]


def test_an_older_bundle_does_not_move_refs_back(
    data: Path, site: Path, disk: Path, tmp_path: Path
) -> None:
    refs = "refs/heads/main", "refs/tags/latest", "refs/pr/1"
    put(data / "hub", Content({"a": b"1"}, OLDER), refs=refs, pulled_at=_year(2027))
    _create(data, disk)
    put(data / "hub", Content({"a": b"2"}, COMMIT), refs=refs, pulled_at=_year(2028))
    _create(data, tmp_path / "newer")
    _apply(site, tmp_path / "newer")
    _apply(site, disk)
    assert [_ref(site, name) for name in ("main", "latest", "refs/pr/1")] == [COMMIT] * 3
    hubmirror(site, "verify")


def _year(year: int) -> datetime:
    return datetime(year, 1, 1, tzinfo=UTC)


def test_a_corrupt_file_in_a_bundle_is_reported_and_not_served(
    data: Path, site: Path, disk: Path
) -> None:
    wrong = blob(data / "hub", grown(1), "model-1.safetensors")
    flip(wrong)
    output = _create(data, disk, status=1)
    assert wrong.name in output
    assert not (disk / "manifest.json").exists()


def test_an_incomplete_revision_is_not_bundled(data: Path, site: Path, disk: Path) -> None:
    blob(data / "hub", grown(1), "README.md").unlink()
    output = _create(data, disk)
    assert "Org/Model" in output
    assert grown(1).commit_hash[:12] in output
    _apply(site, disk)
    hubmirror(site, "verify")
    assert _ref(site) == grown(0).commit_hash


def test_an_existing_bundle_is_not_overwritten(data: Path, disk: Path) -> None:
    _create(data, disk)
    assert "already contains a bundle" in _create(data, disk, status=1)


@pytest.mark.parametrize("split", ["0", "-1", "many"])
def test_an_invalid_split_size(data: Path, disk: Path, split: str) -> None:
    assert "--split" in _create(data, disk, split=split, status=1)


def test_an_absent_data_folder_is_not_bundled(tmp_path: Path, disk: Path) -> None:
    assert "does not exist" in _create(tmp_path / "typo", disk, status=1)
    assert not (tmp_path / "typo").exists()


def test_an_unwritable_folder_is_reported(data: Path, tmp_path: Path) -> None:
    write(tmp_path / "file", b"")
    assert _create(data, tmp_path / "file" / "disk", status=1).startswith("Error: ")


class _Stop(Exception):
    """Stops a run in the middle."""


def _stop_at(count: int, part: str) -> Callable[[Event], None]:
    """A report callback that stops after `count` finished files with `part` in their names."""
    seen = 0

    def report(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, FileDone) and part in event.path
        if seen == count:
            raise _Stop

    return report


def test_create_continues_after_an_interrupt(data: Path, site: Path, disk: Path) -> None:
    with pytest.raises(_Stop):
        bundle_create.create(data, disk, split=150_000, report=_stop_at(4, ".bin"))
    before = {path.name: path.stat().st_ino for path in _volumes(disk)}
    assert len(before) == 4
    assert "the bundle is not finished" in _apply(site, disk, status=1)
    _create(data, disk)
    assert {path.name: path.stat().st_ino for path in _volumes(disk)[:4]} == before
    assert sorted(path.suffix for path in disk.iterdir() if path.suffix != ".bin") == [".json"]
    _apply(site, disk)
    assert names_below(site) == names_below(data)


def test_create_continues_with_another_split_size(data: Path, site: Path, disk: Path) -> None:
    """Some volumes have the size of existing volumes, but another offset."""
    total = bundle_create.create(data, disk, split=10**9, report=lambda _: None).volumes[0].size
    shutil.rmtree(disk)
    with pytest.raises(_Stop):
        bundle_create.create(data, disk, split=total - 500_000, report=_stop_at(2, ".bin"))
    _create(data, disk, split="500000")
    _apply(site, disk)
    assert names_below(site) == names_below(data)


def test_create_continues_with_other_files(data: Path, site: Path, disk: Path) -> None:
    with pytest.raises(_Stop):
        bundle_create.create(data, disk, split=150_000, report=_stop_at(4, ".bin"))
    put_grown(data, 2)
    _create(data, disk)
    _apply(site, disk)
    assert names_below(site) == names_below(data)


def test_apply_continues_without_reading_volumes_again(data: Path, site: Path, disk: Path) -> None:
    _create(data, disk)
    with pytest.raises(_Stop):
        bundle_apply.apply(site, disk, report=_stop_at(5, "/blobs/"))
    events: list[Event] = []
    bundle_apply.apply(site, disk, report=events.append)
    begun = [event.path for event in events if isinstance(event, FileBegan)]
    assert not [path for path in begun if path.endswith(".bin")]
    planned = [event for event in events if isinstance(event, Planned)]
    assert planned[-1].files > 5
    assert names_below(site) == names_below(data)


def test_gc_keeps_files_of_a_running_apply(data: Path, site: Path, disk: Path) -> None:
    """The files are blobs without a record, and the staged file."""
    hubmirror(data, "gc")
    _create(data, disk)
    cache = Cache.of(site / "hub")

    def report(event: Event) -> None:
        if isinstance(event, FileBegan) and "/blobs/" in event.path:
            collect(cache, find_garbage(cache))

    bundle_apply.apply(site, disk, report=report)
    hubmirror(site, "verify")
    assert names_below(site) == names_below(data)


def test_staged_files_of_an_interrupted_apply_are_removed(
    data: Path, site: Path, disk: Path
) -> None:
    _create(data, disk)
    _apply(site, disk)
    work_dir = site / "hub" / ".hubmirror"
    assert not [
        path
        for path in work_dir.rglob("*")
        if path.is_file() and "locks" not in path.parts and path.name != "bundles.applied"
    ]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_the_signature_commands_of_the_guide(data: Path, disk: Path, tmp_path: Path) -> None:
    _create(data, disk)
    key, manifest = tmp_path / "key", disk / "manifest.json"
    _ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", str(key))
    _ssh_keygen("-Y", "sign", "-f", str(key), "-n", "hubmirror", str(manifest))
    public = key.with_suffix(".pub").read_text()
    (tmp_path / "allowed_signers").write_text(f"you@example.org {public}")
    check = (
        *("-Y", "verify", "-f", str(tmp_path / "allowed_signers"), "-I", "you@example.org"),
        *("-n", "hubmirror", "-s", f"{manifest}.sig"),
    )
    _ssh_keygen(*check, body=manifest.read_bytes())
    flip(manifest)
    with pytest.raises(subprocess.CalledProcessError):
        _ssh_keygen(*check, body=manifest.read_bytes())


def _ssh_keygen(*words: str, body: bytes = b"") -> None:
    subprocess.run(["ssh-keygen", *words], input=body, check=True, capture_output=True)


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    with roomy_folder(tmp_path) as folder:
        yield folder


def _creating(lines: list[str]) -> str:
    """The phase of a create run, from its events."""
    done = sum('"FileDone"' in line for line in lines)
    if done == orjson.loads(lines[0])["files"]:
        return "after the last volume"
    return "between volumes" if done else "before the first volume"


def _applying(lines: list[str]) -> str:
    """The phase of an apply run, from its events."""
    if any('"RevisionDone"' in line for line in lines):
        return "publishing revisions"
    if sum('"Planned"' in line for line in lines) > 1:
        return "writing files"
    return "checking volumes"


@pytest.mark.timeout(120 + 20 * KILLS)
def test_killed_at_random_points(
    roomy: Path, record_property: Callable[[str, object], None]
) -> None:
    """`create` and `apply` are killed, each with a new revision of both repositories.

    After a kill the old revisions are served; after the next run the new ones. Clients read all the
    time.
    """
    data, site = roomy / "data", roomy / "site"
    known, creation, application = {}, Killer("create", _creating), Killer("apply", _applying)
    for repo in (MODEL, TWIN):
        content = put_grown(data, 0, repo)
        known[content.commit_hash] = digests_of(content)
    _create(data, roomy / "0")
    _apply(site, roomy / "0")
    number = 0
    with (
        run_command(roomy, "--data", str(site), "--workers", "1") as server,
        reading(server.url, known, MODEL, TWIN) as reader,
    ):
        while min(creation.hits, application.hits) < KILLS:
            number += 1
            for repo in (MODEL, TWIN):
                content = put_grown(data, number, repo, size=1_000_000)
                known[content.commit_hash] = digests_of(content)
            out, base = roomy / str(number), roomy / str(number - 1)
            words = str(out), "--split", "200K", "--since", str(base)
            creation.kill(data, "bundle", "create", *words, "--json")
            if not (out / "manifest.json").exists():
                hubmirror(data, "bundle", "create", *words)
            application.kill(site, "bundle", "apply", str(out), "--json")
            hubmirror(site, "verify")
            _apply(site, out)
            hubmirror(site, "verify")
            for volume in _volumes(base):
                volume.unlink()
        reader.wait_for(content.commit_hash, TWIN)
    record_property("kills", {"create": dict(creation.found), "apply": dict(application.found)})
    record_property("bundles", number)
    record_property("read", sum(seen.revisions for seen in reader.readings.values()))
