"""`hubmirror bundle`: chosen repositories, `inspect`, `verify`, and signatures."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mirror.core.repo import Repo
from tests.carried import (
    TWIN,
    digests_of,
    flip,
    grown,
    hubmirror,
    names_below,
    offline_files,
    put,
    put_grown,
)
from tests.folders import MODEL, Content, repo_dir, write
from tests.ssh import make_key

needs_keys = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None,
    reason="ssh-keygen is not installed: apt-get install openssh-client",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for repo in (MODEL, TWIN):
        put_grown(data, 0, repo)
    write(data / "wheels" / "a.whl", b"wheel")
    return data


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


def _json(data: Path, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in hubmirror(data, *words, "--json").stdout.splitlines()]


def test_a_bundle_of_chosen_repositories(data: Path, site: Path, disk: Path) -> None:
    hubmirror(data, "bundle", "create", str(disk), str(TWIN))
    hubmirror(site, "bundle", "apply", str(disk))
    assert [path.name for path in (site / "hub").glob("*--*")] == [TWIN.folder_name]
    assert not (site / "wheels").exists()
    assert offline_files(site / "hub", TWIN) == digests_of(grown(0, TWIN))
    assert "No problems found." in hubmirror(site, "verify").output


def test_bundles_of_chosen_repositories_follow_each_other(
    data: Path, site: Path, disk: Path, tmp_path: Path
) -> None:
    """The second bundle has another repository with the same shards, and the third has all."""
    hubmirror(data, "bundle", "create", str(disk), str(TWIN))
    second, third = tmp_path / "second", tmp_path / "third"
    hubmirror(data, "bundle", "create", str(second), str(MODEL), "--since", str(disk))
    assert sum(path.stat().st_size for path in second.glob("*.bin")) < 50_000
    put_grown(data, 1, TWIN)
    hubmirror(data, "bundle", "create", str(third), "--since", str(second))
    hubmirror(site, "bundle", "apply", str(disk))
    output = hubmirror(site, "bundle", "apply", str(third), status=1).output
    assert "first" in output
    hubmirror(site, "bundle", "apply", str(second))
    hubmirror(site, "bundle", "apply", str(third))
    assert names_below(site) == names_below(data)
    assert "No problems found." in hubmirror(site, "verify").output


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Org/None", "Org/None is not in the data folder"), ("a b", "'a b' is not a repo id")],
)
def test_an_unknown_repository_is_refused(data: Path, disk: Path, name: str, expected: str) -> None:
    assert expected in hubmirror(data, "bundle", "create", str(disk), name, status=1).output
    assert not (disk / "manifest.json").exists()


def test_a_needed_repository_that_is_not_chosen_is_reported(data: Path, disk: Path) -> None:
    adapter = Repo.parse("Org/Adapter")
    config = b'{"base_model_name_or_path": "Org/Model"}'
    put(data / "hub", Content({"adapter_config.json": config}, "a" * 40, adapter))
    output = hubmirror(data, "bundle", "create", str(disk), str(adapter)).output
    assert "needs Org/Model to start. Name this repository too." in output


def test_inspect_lists_the_content(data: Path, disk: Path) -> None:
    hubmirror(data, "bundle", "create", str(disk))
    before = names_below(disk)
    shards = sum(len(body) for name, body in grown(0).files.items() if "model-" in name)
    head, model, twin, wheels = _json(data, "bundle", "inspect", str(disk))
    assert (head["volumes"], head["since"]) == (1, "")
    assert model["name"] == "Org/Model"
    assert model["commits"] == [grown(0).commit_hash]
    assert model["files"] == len(grown(0).files)
    assert model["size"] > shards > twin["size"]
    assert wheels == {"name": "wheels", "commits": [], "files": 1, "size": 5}
    assert head["size"] == model["size"] + twin["size"] + 5
    for volume in disk.glob("*.bin"):
        volume.unlink()
    output = hubmirror(data, "bundle", "inspect", str(disk)).output
    assert f"Org/Model  ({len(grown(0).files)} files)\n" in output
    assert grown(0).commit_hash in output
    assert before.keys() >= names_below(disk).keys()


def test_verify_checks_all_and_changes_nothing(data: Path, site: Path, disk: Path) -> None:
    hubmirror(data, "bundle", "create", str(disk), "--split", "150K")
    before = names_below(disk)
    output = hubmirror(site, "bundle", "verify", str(disk / "manifest.json")).output
    assert "is whole" in output
    assert "The signature was not checked" in output
    assert not site.exists()
    assert names_below(disk) == before
    volume = sorted(disk.glob("*.bin"))[3]
    flip(volume)
    output = hubmirror(site, "bundle", "verify", str(disk), status=1).output
    assert f"Volumes are damaged: {volume.name}." in output


def _sign(disk: Path, key: Path) -> None:
    words = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", "hubmirror"]
    (disk / "manifest.json.sig").unlink(missing_ok=True)
    subprocess.run([*words, disk / "manifest.json"], check=True, capture_output=True)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "key")


@pytest.fixture
def signers(tmp_path: Path, key: Path) -> Path:
    """The file of the guide, with the key of the operator."""
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    (tmp_path / "allowed_signers").write_text(f"you@example.org {public}\n")
    return tmp_path / "allowed_signers"


@needs_keys
def test_a_signed_bundle_is_applied(
    data: Path, site: Path, disk: Path, key: Path, signers: Path
) -> None:
    output = hubmirror(data, "bundle", "create", str(disk)).output
    assert f"ssh-keygen -Y sign -f ~/.ssh/id_ed25519 -n hubmirror {disk}/manifest.json" in output
    _sign(disk, key)
    words = str(disk), "--allowed-signers", str(signers)
    assert "not checked" not in hubmirror(site, "bundle", "verify", *words).output
    hubmirror(site, "bundle", "apply", *words)
    assert names_below(site) == names_below(data)


@needs_keys
@pytest.mark.parametrize("verb", ["apply", "verify"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("unsigned", "The bundle is not signed"),
        ("other key", "The key that signed the bundle is not in"),
        ("other manifest", "The signature of the bundle is not valid"),
        ("other namespace", "The signature of the bundle is not valid"),
        ("no signers", "does not exist"),
        ("damaged signature", "Nothing was changed"),
    ],
)
def test_a_bundle_that_is_not_signed_rightly_changes_nothing(
    data: Path,
    site: Path,
    disk: Path,
    tmp_path: Path,
    key: Path,
    signers: Path,
    verb: str,
    damage: str,
    expected: str,
) -> None:
    hubmirror(data, "bundle", "create", str(disk))
    put_grown(site, 1)
    before = names_below(site)
    if damage == "other key":
        _sign(disk, make_key(tmp_path / "other"))
    elif damage == "other namespace":
        words = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", "file"]
        subprocess.run([*words, disk / "manifest.json"], check=True, capture_output=True)
    elif damage != "unsigned":
        _sign(disk, key)
    if damage == "other manifest":
        hubmirror(data, "bundle", "create", str(tmp_path / "second"), str(TWIN))
        for path in (tmp_path / "second").iterdir():
            shutil.copy(path, disk)
    if damage == "damaged signature":
        (disk / "manifest.json.sig").write_text("-----BEGIN SSH SIGNATURE-----\n")
    if damage == "no signers":
        signers.unlink()
    words = ["bundle", verb, str(disk), "--allowed-signers", str(signers)]
    assert expected in hubmirror(site, *words, status=1).output
    assert names_below(site) == before


@needs_keys
def test_signers_are_a_setting(
    data: Path, site: Path, disk: Path, tmp_path: Path, signers: Path
) -> None:
    hubmirror(data, "bundle", "create", str(disk))
    write(tmp_path / "hubmirror.toml", b'[bundle]\nallowed_signers = "allowed_signers"\n')
    output = hubmirror(site, "bundle", "apply", str(disk), status=1).output
    assert "The bundle is not signed" in output
    assert not repo_dir(site / "hub").exists()


@pytest.mark.parametrize("verb", ["apply", "verify", "inspect"])
def test_a_folder_without_a_manifest(data: Path, site: Path, tmp_path: Path, verb: str) -> None:
    output = hubmirror(site, "bundle", verb, "/wrong", status=1).output
    assert "/wrong does not exist. Name the folder of a bundle" in output
    assert "create" not in output
    hubmirror(data, "bundle", "create", str(tmp_path / "disk" / "2026-11"))
    output = hubmirror(site, "bundle", verb, str(tmp_path / "disk"), status=1).output
    assert "is not a bundle: it has no manifest.json. It contains bundles: 2026-11." in output
    (tmp_path / "disk" / "2026-11" / "manifest.json").unlink()
    output = hubmirror(site, "bundle", verb, str(tmp_path / "disk" / "2026-11"), status=1).output
    assert "Run `hubmirror bundle create` again, or copy the rest." in output
