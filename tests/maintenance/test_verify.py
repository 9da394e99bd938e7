"""`hubmirror verify` and `ls`: problems are found, reported, and not served."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.derived.digests import Digests
from mirror.maintenance.verify import Verify
from mirror.sources.hf_cache import HfCache
from mirror.store.cache import Cache
from mirror.store.progress import Event, FileAdvanced
from tests import shapes
from tests.carried import (
    TWIN,
    blob,
    digests_of,
    flip,
    hubmirror,
    names_below,
    offline_files,
    start,
)
from tests.conftest import Serve
from tests.folders import (
    COMMIT,
    FILES,
    MODEL,
    OLDER,
    Content,
    add_tree,
    make_classic,
    make_managed,
    make_plain,
    repo_dir,
)
from tests.servers import run_command

WEIGHTS = "model.safetensors"
CONTENT = Content()
FILE = f"/Org/Model/resolve/main/{WEIGHTS}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one managed repository."""
    make_managed(tmp_path / "data" / "hub")
    return tmp_path / "data"


@pytest.fixture
def upstream(tmp_path: Path, serve: Serve, digests: Digests) -> str:
    """A hub with the complete repository."""
    make_managed(tmp_path / "upstream")
    client = serve(HfCache(tmp_path / "upstream", digests, managed=True, ttl_s=0))
    return str(client.base_url)


def _weights(data: Path) -> Path:
    return blob(data / "hub", CONTENT, WEIGHTS)


def _remove(data: Path) -> None:
    _weights(data).unlink()


def _truncate(data: Path) -> None:
    os.truncate(_weights(data), 1000)


def _flip(data: Path) -> None:
    flip(_weights(data), 1000)


def _grow(data: Path) -> None:
    with _weights(data).open("ab") as file:
        file.write(b"more")


def _unlink(data: Path) -> None:
    (repo_dir(data / "hub") / "snapshots" / COMMIT / WEIGHTS).unlink()


def _lead_astray(data: Path) -> None:
    link = repo_dir(data / "hub") / "snapshots" / COMMIT / WEIGHTS
    link.unlink()
    link.symlink_to("../../blobs/nothing")


def _cut_record(data: Path) -> None:
    os.truncate(repo_dir(data / "hub") / "hubmirror" / f"{COMMIT}.json", 100)


def _replace_by_a_folder(data: Path) -> None:
    _weights(data).unlink()
    _weights(data).mkdir()


DAMAGES: dict[Callable[[Path], None], tuple[str, str]] = {
    _remove: ("missing", WEIGHTS),
    _truncate: ("truncated", WEIGHTS),
    _flip: ("corrupt", WEIGHTS),
    _grow: ("corrupt", WEIGHTS),
    _unlink: ("dangling", WEIGHTS),
    _lead_astray: ("dangling", WEIGHTS),
    _cut_record: ("corrupt", f"hubmirror/{COMMIT}.json"),
    _replace_by_a_folder: ("corrupt", WEIGHTS),
}


def _name(damage: Callable[[Path], None]) -> str:
    return damage.__name__.strip("_").replace("_", " ")


def test_a_correct_cache_has_no_problems(data: Path) -> None:
    assert hubmirror(data, "verify").stdout == "No problems found.\n"


@pytest.mark.parametrize("damage", DAMAGES, ids=_name)
def test_every_damage_is_reported(data: Path, damage: Callable[[Path], None]) -> None:
    kind, path = DAMAGES[damage]
    damage(data)
    row, total = hubmirror(data, "verify", status=1).stdout.splitlines()
    assert row.startswith(f"{kind} ")
    assert "Org/Model" in row
    assert path in row
    assert total == "1 problem."


@pytest.mark.parametrize("damage", DAMAGES, ids=_name)
def test_repair_fixes_every_damage(
    data: Path, upstream: str, damage: Callable[[Path], None]
) -> None:
    before = names_below(repo_dir(data / "hub"))
    damage(data)
    hubmirror(data, "verify", "--repair", "--upstream", upstream)
    assert names_below(repo_dir(data / "hub")).keys() == before.keys()
    assert "No problems found." in hubmirror(data, "verify").stdout


@pytest.mark.parametrize("damage", [_flip, _cut_record], ids=_name)
def test_repair_restores_the_original_files(
    data: Path, upstream: str, damage: Callable[[Path], None]
) -> None:
    damage(data)
    hubmirror(data, "verify", "--repair", "--upstream", upstream)
    assert offline_files(data / "hub", MODEL) == digests_of(CONTENT)
    (row,) = _rows(data)
    assert (row["refs"], row["status"]) == (["refs/heads/main"], "complete")
    record = json.loads((repo_dir(data / "hub") / "hubmirror" / f"{COMMIT}.json").read_bytes())
    assert record["refs"] == ["refs/heads/main"]


@pytest.mark.parametrize("damage", [_remove, _cut_record], ids=_name)
def test_repair_fetches_only_wanted_files(
    data: Path, upstream: str, damage: Callable[[Path], None]
) -> None:
    shutil.rmtree(data / "hub")
    hubmirror(data, "pull", "Org/Model", "--exclude", "*.txt", "--upstream", upstream)
    before = names_below(repo_dir(data / "hub"))
    damage(data)
    hubmirror(data, "verify", "--repair", "--upstream", upstream)
    assert names_below(repo_dir(data / "hub")).keys() == before.keys()


def test_repair_fails_without_the_file_upstream(data: Path, upstream: str, tmp_path: Path) -> None:
    make_managed(data / "hub", Content({"a": b"a"}, OLDER, TWIN))
    blob(data / "hub", Content({"a": b"a"}, OLDER, TWIN), "a").unlink()
    _remove(data)
    result = hubmirror(data, "verify", "--repair", "--upstream", upstream, status=1)
    assert "Org/Twin is not on" in result.stderr
    assert result.stdout.splitlines()[-2:] == ["missing     Org/Twin  a is missing.", "1 problem."]


def test_a_stray_blob_is_not_harmful(data: Path) -> None:
    (repo_dir(data / "hub") / "blobs" / ("a" * 64)).write_bytes(b"stray")
    row, total = hubmirror(data, "verify").stdout.splitlines()
    assert row.startswith("stray ")
    assert "a" * 64 in row
    assert total == "No problems found."


def test_a_corrupt_blob_is_never_served_again(
    data: Path, serve: Serve, digests: Digests, upstream: str
) -> None:
    client = serve(HfCache(data / "hub", digests, managed=True, ttl_s=0))
    assert client.get(FILE).content == FILES[WEIGHTS]
    _flip(data)
    hubmirror(data, "verify", status=1)
    answer = client.get(FILE)
    assert answer.status_code == 503
    assert "1 of 5 files" in answer.headers["x-error-message"]
    aside = data / "hub" / ".hubmirror" / "corrupt" / MODEL.folder_name
    assert [path.name for path in aside.iterdir()] == [CONTENT.entries[WEIGHTS].etag]
    assert not _weights(data).exists()
    (row,) = _rows(data)
    assert (row["status"], row["note"]) == ("corrupt", "1 of 5 files missing, 320.0 kB of 320.1 kB")
    hubmirror(data, "verify", "--repair", "--upstream", upstream)
    assert client.get(FILE).content == FILES[WEIGHTS]


def test_a_corrupt_blob_of_two_repositories_is_set_aside_in_both(data: Path) -> None:
    twin = Content(repo=TWIN)
    make_managed(data / "hub", twin)
    _link_twin(data, twin)
    _flip(data)
    hubmirror(data, "verify", status=1)
    assert not _weights(data).exists()
    assert not blob(data / "hub", twin, WEIGHTS).exists()


def test_hard_links_are_read_once(data: Path) -> None:
    twin = Content({WEIGHTS: FILES[WEIGHTS]}, repo=TWIN)
    make_managed(data / "hub", twin)
    _link_twin(data, twin)
    events: list[Event] = []
    cache = Cache.of(data / "hub")
    assert Verify(events.append).cache(cache, cache.folders()) == []
    read = sum(event.count for event in events if isinstance(event, FileAdvanced))
    assert read == sum(map(len, FILES.values()))


def _link_twin(data: Path, twin: Content) -> None:
    shared = blob(data / "hub", twin, WEIGHTS)
    shared.unlink()
    shared.hardlink_to(_weights(data))


def test_verify_of_one_damaged_repository(data: Path) -> None:
    make_managed(data / "hub", Content(repo=TWIN))
    _remove(data)
    assert hubmirror(data, "verify", "Org/Twin").stdout == "No problems found.\n"
    assert "missing" in hubmirror(data, "verify", "Org/Model", status=1).stdout


def test_verify_of_an_unknown_repository_fails(data: Path) -> None:
    assert "No source has Org/Typo" in hubmirror(data, "verify", "Org/Typo", status=1).output
    output = hubmirror(data, "verify", "Org/Model@main", status=1).output
    assert "This command takes no revision." in output


def test_verify_ignores_the_case_of_names(data: Path) -> None:
    assert "No problems found." in hubmirror(data, "verify", "ORG/model").stdout


@pytest.mark.parametrize("body", [None, b"{", b'{"format_version": 1, "files": {}}'])
def test_a_wrong_tree_file_is_dangling(data: Path, body: bytes | None) -> None:
    tree = repo_dir(data / "hub") / "trees" / f"{COMMIT}.json"
    tree.unlink() if body is None else tree.write_bytes(body)
    output = hubmirror(data, "verify", status=1).stdout
    assert f"dangling    Org/Model  trees/{COMMIT}.json does not list the files" in output


@pytest.mark.parametrize("body", [b"", b"f" * 40])
def test_a_ref_to_an_absent_revision_is_dangling(data: Path, body: bytes) -> None:
    (repo_dir(data / "hub") / "refs" / "main").write_bytes(body)
    output = hubmirror(data, "verify", status=1).stdout
    assert "dangling    Org/Model  refs/heads/main points to a revision" in output


def test_a_repository_without_a_record_is_a_problem(data: Path) -> None:
    shutil.rmtree(repo_dir(data / "hub") / "hubmirror")
    output = hubmirror(data, "verify", "Org/Model", status=1).stdout
    assert "has no record: a copy" in output
    assert "hubmirror" not in output.partition("problems")[0].partition("no record")[0]


def test_a_foreign_cache_is_checked_but_not_changed(data: Path, tmp_path: Path) -> None:
    content = Content(repo=TWIN)
    folder = make_classic(tmp_path / "other", content)
    source = f"hf-cache:{tmp_path}/other"
    assert hubmirror(data, "verify", "--source", source).stdout == "No problems found.\n"
    flip(blob(tmp_path / "other", content, WEIGHTS))
    blob(tmp_path / "other", content, "config.json").unlink()
    before = names_below(folder)
    rows = hubmirror(data, "verify", "--source", source, status=1).stdout.splitlines()
    assert sorted(row.split()[:2] for row in rows) == [
        ["2", "problems."],
        ["corrupt", "Org/Twin"],
        ["dangling", "Org/Twin"],
    ]
    assert names_below(folder) == before


def test_a_plain_folder_with_changed_bytes(data: Path, tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "plain", Content(repo=TWIN))
    words = "verify", "--source", f"folder:{folder}=Org/Twin"
    assert hubmirror(data, *words).stdout == "No problems found.\n"
    flip(folder / WEIGHTS)
    assert f"{WEIGHTS} is corrupt" in hubmirror(data, *words, status=1).stdout


def test_problems_as_json(data: Path) -> None:
    _flip(data)
    lines = hubmirror(data, "verify", "--json", status=1).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0]["event"] == "Planned"
    assert [row for row in rows if "kind" in row] == [
        {
            "repo": "Org/Model",
            "path": WEIGHTS,
            "kind": "corrupt",
            "text": f"{WEIGHTS} is corrupt: its bytes do not match its digest.",
        }
    ]


def test_ls_shows_every_status(data: Path, tmp_path: Path) -> None:
    for name, damage in (("Waiting", _remove), ("Corrupt", _flip)):
        folder = make_managed(data / "hub")
        damage(data)
        if damage is _flip:
            hubmirror(data, "verify", "Org/Model", status=1)
            _rename(data / "hub" / ".hubmirror" / "corrupt" / folder.name, name)
        _rename(folder, name)
    make_managed(data / "hub")
    other = tmp_path / "other"
    make_classic(other)  # which is shadowed
    for name in ("Foreign", "Partial"):
        folder = make_classic(other, Content(repo=TWIN))
        if name == "Foreign":
            add_tree(folder, Content(repo=TWIN))
        _rename(folder, name)
    rows = _rows(data, "--source", f"hf-cache:{other}")
    assert {(row["repo_id"], row["status"]) for row in rows} == {
        ("Org/Waiting", "waiting"),
        ("Org/Corrupt", "corrupt"),
        ("Org/Model", "complete"),
        ("Org/Model", "shadowed"),
        ("Org/Foreign", "foreign"),
        ("Org/Partial", "partial"),
    }
    shown = hubmirror(data, "ls", "--source", f"hf-cache:{other}").stdout
    assert "2026-01-02" in shown


def _rename(folder: Path, name: str) -> None:
    """Rename a repository's folder, and the repo_id in its records."""
    target = folder.with_name(f"models--Org--{name}")
    shutil.copytree(folder, target, symlinks=True)
    shutil.rmtree(folder)
    for record in target.glob("hubmirror/*.json"):
        record.write_text(record.read_text().replace("Org/Model", f"Org/{name}"))


def _rows(data: Path, *words: str) -> list[dict[str, object]]:
    return [
        json.loads(line) for line in hubmirror(data, "ls", "--json", *words).stdout.splitlines()
    ]


class _Kimi:
    """Commands on a repository of 594 GB, and their memory use."""

    def __init__(self, data: Path) -> None:
        self.shape = shapes.kimi_k2_thinking()
        self.name = self.shape.repo_id
        self.data = data
        self.memory = 0.0

    def run(self, *words: str, status: int = 0) -> str:
        with (self.data.parent / "output").open("w+") as output:
            process = start(self.data, *words, stdout=output, stderr=subprocess.STDOUT)
            while process.poll() is None:
                with contextlib.suppress(OSError, IndexError):
                    text = Path(f"/proc/{process.pid}/status").read_text()
                    self.memory = int(text.partition("VmHWM:")[2].split()[0]) / 1024
                time.sleep(0.02)
            output.seek(0)
            text = output.read()
        assert process.returncode == status, text
        return text


@pytest.fixture
def kimi(tmp_path: Path) -> _Kimi:
    kimi = _Kimi(tmp_path / "kimi")
    shapes.make_managed(kimi.data / "hub", kimi.shape)
    return kimi


def test_594_gb_are_listed(kimi: _Kimi) -> None:
    (row,) = map(json.loads, kimi.run("ls", "--json").splitlines())
    assert (row["repo_id"], row["status"], row["files"]) == (kimi.name, "complete", 79)
    assert row["size"] == pytest.approx(594e9, rel=0.001)
    assert kimi.memory < 80


def test_594_gb_are_planned_and_small_files_verified(kimi: _Kimi, tmp_path: Path) -> None:
    """`verify` reads all files of a repository, so this repository has only the small files."""
    served, kimi.data = kimi.data, tmp_path / "data"
    kimi.data.mkdir(exist_ok=True)
    with run_command(tmp_path, "--data", str(served), "--workers", "1") as server:
        pull = "pull", kimi.name, "--upstream", server.url
        is_small = shutil.disk_usage(tmp_path).free < 500e9
        plan = kimi.run(*pull, "--dry-run", status=int(is_small))
        assert "To fetch: 79 files, 593.9 GB" in plan
        assert len(plan.splitlines()) >= 1 + 79 + 1 + is_small  # a retry has a line too
        assert kimi.memory < 120
        if is_small:
            assert "the pull needs 593.9 GB" in " ".join(plan.split())
            assert "The disk is too small: the pull needs 593.9 GB" in kimi.run(*pull, status=1)
        kimi.run(*pull, "--exclude", "*.safetensors")
        assert kimi.memory < 120
    assert "No problems found." in kimi.run("verify")
    assert kimi.memory < 120
    (row,) = map(json.loads, kimi.run("ls", "--json").splitlines())
    assert (row["status"], row["files"]) == ("complete", 17)


def test_594_gb_with_a_missing_file_are_reported(kimi: _Kimi) -> None:
    blobs = repo_dir(kimi.data / "hub", kimi.shape.repo) / "blobs"
    for path, file in kimi.shape.entries.items():
        if path.endswith(".safetensors"):
            os.truncate(blobs / file.etag, file.size - 1)
    rows = kimi.run("verify", "--json", status=1).splitlines()
    kinds = [json.loads(row).get("kind") for row in rows]
    assert kinds.count("truncated") == 62
    assert kimi.memory < 120
