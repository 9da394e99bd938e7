"""A bundle that lies: its manifest or its records are others, and sealed again. It is refused, or
it changes nothing but the data folder, and no blob has wrong bytes afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from mirror.cli import main
from mirror.core.repo import Repo
from mirror.core.tree import blob_hash
from mirror.transfer.bundle_manifest import Item, Manifest, Volume
from tests.attacks.test_bundles import seal
from tests.carried import put_grown
from tests.folders import Content, entry, make_record, repo_dir, write
from tests.fuzz.mutation import FACTOR, ODD_STRINGS, count, mutate
from tests.fuzz.verified import harm

# Seeds that failed once.
FOUND: tuple[int, ...] = ()
SEEDS = [*FOUND, *range(count(40))]
CONTENT = Content({"config.json": b"{}", "model.bin": b"weights", "sub/x": b"x"}, "d" * 40)
RECORD = json.loads(make_record(CONTENT, refs=("refs/heads/main", "refs/tags/v1")).render())
VOLUME = "hubmirror-0001.bin"


def _name(repo: Repo, path: str) -> str:
    return f"hub/{repo.folder_name}/blobs/{entry(path, CONTENT.files[path]).etag}"


def bundle(folder: Path, record: bytes, commit_hash: str = CONTENT.commit_hash) -> Path:
    """A bundle of one repository with this record, and of a file beside it."""
    files = {_name(CONTENT.repo, path): body for path, body in CONTENT.files.items()}
    files["notes.txt"] = b"notes"
    files[f"hub/{CONTENT.repo.folder_name}/hubmirror/{commit_hash}.json"] = record
    items, stream = [], b""
    for name, body in files.items():
        digest = hashlib.sha256(body).hexdigest()
        if "/blobs/" in name and len(name.rpartition("/")[2]) == 40:
            sha1 = blob_hash(40 * "a", len(body))
            sha1.update(body)
            digest = sha1.hexdigest()
        items.append(Item(name, len(body), digest, len(stream)))
        stream += body
    write(folder / VOLUME, stream)
    volume = Volume(VOLUME, 0, len(stream), hashlib.sha256(stream).hexdigest())
    holds = {item.name: item.digest for item in items}
    manifest = Manifest(32 * "b", "2026-01-01T00:00:00", "", "", items, [volume], holds)
    write(folder / "manifest.json", manifest.render())
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where bundles go; it holds a revision. Decoys lie beside it."""
    put_grown(tmp_path / "site", 0)
    for name in ("victim", "decoys/victim", "hub/victim", "disk/victim"):
        write(tmp_path / name, b"as it was")
    return tmp_path / "site"


def _beside(site: Path) -> dict[str, bytes]:
    """All files that are no business of an application."""
    return {
        str(path): path.read_bytes()
        for path in sorted(site.parent.rglob("*"))
        if path.is_file() and not path.is_relative_to(site) and "disk" not in path.parts
    }


def _apply(site: Path, folder: Path, what: str) -> bool:
    """Whether the bundle was taken. Says `what` was wrong where something is."""
    before = _beside(site)
    with contextlib.chdir(site.parent):
        words = "bundle", "apply", str(folder), "--data", str(site)
        result = CliRunner().invoke(main, words, terminal_width=200)
    assert isinstance(result.exception, SystemExit | None), f"{what}: {result.exception!r}"
    assert result.exit_code in (0, 1), f"{what}: {result.output}"
    assert _beside(site) == before, what
    assert harm(site) == [], what
    return result.exit_code == 0


@pytest.fixture
def kept(site: Path) -> Path:
    """A copy of the site as it was."""
    shutil.copytree(site, site.parent / "kept", symlinks=True)
    return site.parent / "kept"


def _again(site: Path, kept: Path) -> None:
    shutil.rmtree(site)
    shutil.copytree(kept, site, symlinks=True)


def test_the_bundle_itself_is_taken(site: Path, tmp_path: Path) -> None:
    """Else what is said below would say little."""
    folder = bundle(tmp_path / "disk", json.dumps(RECORD).encode())
    assert _apply(site, folder, "the truth")
    refs = repo_dir(site / "hub") / "refs"
    assert [(refs / name).read_text() for name in ("main", "v1")] == 2 * [CONTENT.commit_hash]


@pytest.mark.timeout(120 + 2 * len(SEEDS))
def test_manifests_that_lie(site: Path, kept: Path, tmp_path: Path) -> None:
    for seed in SEEDS:
        folder = bundle(tmp_path / "disk", json.dumps(RECORD).encode())

        def change(manifest: dict[str, Any], chosen: random.Random) -> None:
            lied = mutate(chosen, manifest)
            manifest.clear()
            manifest.update(lied)

        try:
            seal(folder, lambda manifest, seed=seed: change(manifest, random.Random(seed)))  # type: ignore[misc]
        except (TypeError, KeyError):
            continue  # no JSON any more, or without a digest
        _apply(site, folder, f"seed {seed}")
        _again(site, kept)


@pytest.mark.timeout(120 + 2 * len(SEEDS))
def test_records_that_lie(site: Path, kept: Path, tmp_path: Path) -> None:
    for seed in SEEDS:
        record = json.dumps(mutate(random.Random(seed), RECORD)).encode()
        _apply(site, bundle(tmp_path / "disk", record), f"seed {seed}")
        _again(site, kept)


_REFS = (
    "refs/heads/../../../../../decoys/victim", "refs/heads//{decoys}/victim", "/{decoys}/victim",
    "refs/heads/../../blobs/x", "refs/heads/", "../hubmirror/x", "refs/heads/a\0b", "refs/heads/.",
    "refs/heads/main/below", "refs/../../../../../victim",
)  # fmt: skip


@pytest.mark.parametrize("ref", _REFS)
def test_a_record_whose_ref_leads_out(site: Path, tmp_path: Path, ref: str) -> None:
    name = ref.replace("{decoys}", str(tmp_path / "decoys"))
    record = json.dumps(RECORD | {"refs": ["refs/heads/main", name]}).encode()
    _apply(site, bundle(tmp_path / "disk", record), ref)


_RECORDS: dict[str, dict[str, Any]] = {
    "of another repository": {"repo_id": "Org/Another"},
    "of a dataset": {"repo_type": "dataset"},
    "of another commit": {"commit_hash": "e" * 40},
    "with no files": {"files": {}},
    "with a deep path": {"files": {"a/" * 1400 + "b": RECORD["files"]["config.json"]}},
    "with a long name": {"files": {"x" * 300: RECORD["files"]["config.json"]}},
    "with a file that is a folder": {
        "files": RECORD["files"] | {"config.json/x": RECORD["files"]["config.json"]}
    },
    "with a wrong size": {"files": {"config.json": RECORD["files"]["config.json"] | {"size": 3}}},
    "with a negative size": {
        "files": {"config.json": RECORD["files"]["config.json"] | {"size": -1}}
    },
    "with a digest of other bytes": {
        "files": {"a.bin": RECORD["files"]["model.bin"] | {"blob_id": "e" * 40}}
    },
    "of the future": {"pulled_at": "9999-12-31T23:59:59+00:00"},
    "of no time": {"pulled_at": "0001-01-01T00:00:00+14:00"},
    "with odd info": {"info": {"tags": 5, "id": "../x", "siblings": 5, "cardData": [1]}},
}


@pytest.mark.parametrize("name", _RECORDS)
def test_a_record_that_does_not_fit(site: Path, tmp_path: Path, name: str) -> None:
    _apply(site, bundle(tmp_path / "disk", json.dumps(RECORD | _RECORDS[name]).encode()), name)


def test_a_record_in_the_place_of_another(site: Path, tmp_path: Path) -> None:
    record = json.dumps(RECORD).encode()
    _apply(site, bundle(tmp_path / "disk", record, "e" * 40), "in another place")


@pytest.mark.parametrize("name", ODD_STRINGS[: None if FACTOR > 1 else 40])
def test_a_file_beside_that_has_an_odd_name(site: Path, tmp_path: Path, name: str) -> None:
    folder = bundle(tmp_path / "disk", json.dumps(RECORD).encode())

    def change(manifest: dict[str, Any]) -> None:
        for item in manifest["items"]:
            if item["name"] == "notes.txt":
                item["name"] = name
        manifest["holds"][name] = manifest["holds"].pop("notes.txt")

    try:
        seal(folder, change)
    except (TypeError, orjson.JSONEncodeError):
        pytest.skip("JSON holds no such text")
    _apply(site, folder, repr(name))


def test_a_link_in_the_data_folder_is_not_written_through(site: Path, tmp_path: Path) -> None:
    """A file of a bundle has the name of a link that leads elsewhere."""
    (site / "notes.txt").symlink_to(tmp_path / "victim")
    _apply(site, bundle(tmp_path / "disk", json.dumps(RECORD).encode()), "a link")
    assert (tmp_path / "victim").read_bytes() == b"as it was"
