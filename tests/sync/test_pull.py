"""Pulls: the files in the folder afterwards, and the number of requests."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mirror.config.specs import RepoSpec
from mirror.core.record import parse_tree
from mirror.core.repo import Repo
from mirror.store.cache import Cache
from mirror.sync.completeness import has_complete_revision
from tests.conftest import Serve
from tests.filling import FILES, MODEL, WEIGHTS, Filling, digests, mtimes
from tests.folders import Content, entry, make_managed
from tests.hub import HubSimulator, after
from tests.servers import run_command

NEWER = {**FILES, "config.json": b'{"model_type": "qwen3"}', "new.bin": b"new" * 1000}


def test_a_pull_writes_a_complete_revision(simulator: HubSimulator, filling: Filling) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    outcome = filling.pull(MODEL)
    assert outcome.failed == []
    assert filling.shown() == filling.shown(commit) == FILES
    folder = filling.folder()
    for path, body in FILES.items():
        link, blob = folder.snapshot(commit) / path, folder.blobs / entry(path, body).etag
        assert str(link.readlink()) == os.path.relpath(blob, link.parent)
        assert blob.stat().st_mode & 0o777 == 0o644
    assert (folder.path / "refs" / "main").read_text() == commit
    assert not list((filling.hub / ".hubmirror" / "staging").iterdir())


def test_the_record_lists_all_files_of_upstream(simulator: HubSimulator, filling: Filling) -> None:
    simulator.repo(MODEL).info = {"tags": ["tiny"], "cardData": {"license": "mit"}}
    commit = simulator.repo(MODEL).refs["main"]
    filling.pull(MODEL, exclude=["*.safetensors"])
    record = filling.record(commit)
    entries = {path: entry(path, body) for path, body in FILES.items()}
    left_out = {path for path in FILES if path.endswith(".safetensors")}
    assert record.left_out == {path: entries[path] for path in left_out}
    assert record.files == {path: entries[path] for path in FILES.keys() - left_out}
    assert record.info["tags"] == ["tiny"]
    assert record.info["cardData"] == {"license": "mit"}
    assert len(record.info["siblings"]) == len(FILES)
    assert record.refs == ("refs/heads/main",)
    assert record.upstream == filling.url
    assert record.pulled_at.timestamp() == pytest.approx(
        filling.folder().record(commit).stat().st_mtime, abs=60
    )


def test_the_tree_file_lists_only_wanted_files(simulator: HubSimulator, filling: Filling) -> None:
    filling.pull(MODEL, include=["*.json", "*.md"])
    tree = filling.folder().tree(simulator.repo(MODEL).refs["main"])
    assert parse_tree(tree.read_bytes()).keys() == {"README.md", "config.json"}


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        (["*.json"], [], {"config.json"}),
        (["*.txt"], ["*/*"], {"empty.txt", "vocab.txt"}),
        (["dir with space/"], [], {"dir with space/\u00fcn\u00ef#100%.txt"}),
        ([], ["*.safetensors", "*.txt"], {"README.md", "config.json"}),
    ],
)
def test_filters_choose_files(
    filling: Filling, include: list[str], exclude: list[str], wanted: set[str]
) -> None:
    filling.pull(MODEL, include=include, exclude=exclude)
    assert filling.shown().keys() == wanted


def test_clients_use_the_folder_as_an_offline_cache(
    simulator: HubSimulator, filling: Filling
) -> None:
    repo, part, data = simulator.repo(MODEL), simulator.repo("org/part"), "datasets/org/data"
    first = repo.refs["main"]
    part.commit(FILES)
    simulator.repo(data).commit({"train.csv": b"a,b\n"})
    filling.pull(MODEL)
    repo.commit(NEWER)
    filling.pull(MODEL, data)
    filling.pull("org/part", include=["*.json"])
    downloaded = filling.offline(
        {"repo_id": MODEL},
        {"repo_id": MODEL, "revision": first},
        {"repo_id": "org/part"},
        {"repo_id": "org/data", "repo_type": "dataset"},
        {"repo_id": MODEL, "filename": WEIGHTS},
        {"repo_id": "org/part", "filename": "config.json", "revision": part.refs["main"]},
    )
    assert downloaded == [
        digests(NEWER),
        digests(FILES),
        digests({"config.json": FILES["config.json"]}),
        digests({"train.csv": b"a,b\n"}),
        digests({WEIGHTS: FILES[WEIGHTS]}),
        digests({"config.json": FILES["config.json"]}),
    ]


@pytest.mark.parametrize("repo", ["datasets/org/data", "spaces/org/app", "gpt2", "datasets/squad"])
def test_repositories_of_every_kind(simulator: HubSimulator, filling: Filling, repo: str) -> None:
    simulator.repo(repo).commit(FILES)
    assert filling.pull(repo).failed == []
    assert filling.shown(repo=repo) == FILES


@pytest.mark.parametrize(
    ("ref", "revision", "full"),
    [
        ("main", "main", "refs/heads/main"),
        ("refs/tags/v1", "v1", "refs/tags/v1"),
        ("refs/pr/1", "refs/pr/1", "refs/pr/1"),
        ("feature/x", "feature/x", "refs/heads/feature/x"),
        ("feature/x", "refs/heads/feature/x", "refs/heads/feature/x"),
    ],
)
def test_revisions_of_every_kind(
    simulator: HubSimulator, filling: Filling, ref: str, revision: str, full: str
) -> None:
    commit = simulator.repo(MODEL).commit({"only.txt": ref.encode()}, ref)
    assert filling.pull(f"{MODEL}@{revision}").failed == []
    assert filling.shown(revision) == filling.shown(commit) == {"only.txt": ref.encode()}
    assert filling.record(commit).refs == (full,)
    with filling.source() as source:
        assert source.refs(Repo.parse(MODEL)) == {full: commit}


def test_a_commit_hash_creates_no_ref(simulator: HubSimulator, filling: Filling) -> None:
    old = simulator.repo(MODEL).refs["main"]
    simulator.repo(MODEL).commit(NEWER)
    filling.pull(f"{MODEL}@{old}")
    assert filling.shown(old) == FILES
    assert filling.folder().refs() == {}
    assert filling.record(old).refs == ()


@pytest.mark.parametrize("name", ["ORG/MODEL", "Org/Model"])
def test_a_new_folder_has_the_case_of_the_hub(filling: Filling, name: str) -> None:
    assert filling.pull(name).failed == []
    assert [path.name for path in filling.hub.glob("*--*")] == ["models--org--model"]
    filling.pull(MODEL)
    assert filling.outcomes == ["pulled", "up to date"]


def test_an_existing_folder_keeps_its_case(simulator: HubSimulator, filling: Filling) -> None:
    filling.pull(MODEL)
    simulator.repos = {"Org/Model": simulator.repos[MODEL]}
    simulator.repo("Org/Model").commit(NEWER)
    assert filling.pull("Org/Model").failed == []
    assert filling.shown(repo="Org/Model") == NEWER
    assert [path.name for path in filling.hub.glob("*--*")] == ["models--org--model"]


def test_pull_from_another_hubmirror(tmp_path: Path) -> None:
    files = {**FILES, "big.safetensors": os.urandom(300_000)}
    make_managed(tmp_path / "upstream" / "hub", Content(files, repo=Repo.parse(MODEL)))
    options = ("--data", "upstream", "--xet-min-size", "0")
    with run_command(tmp_path, "--workers", "1", *options) as server:
        filling = Filling(tmp_path / "data", server.url)
        assert filling.pull(MODEL).failed == []
    assert filling.shown() == files
    assert not any(path.is_symlink() for path in filling.folder().blobs.iterdir())


def test_xet_hashes_of_upstream_are_recorded(filling: Filling, simulator: HubSimulator) -> None:
    repo = simulator.repo(MODEL)
    repo.xet_hashes[WEIGHTS] = 64 * "e"
    filling.pull(MODEL)
    commit = repo.refs["main"]
    assert filling.record(commit).files[WEIGHTS].xet_hash == 64 * "e"
    tree = filling.folder().read_tree(commit)
    assert tree is not None
    assert tree[WEIGHTS].xet_hash == 64 * "e"
    assert tree["config.json"].xet_hash is None


def test_pull_from_a_hubmirror_with_filters(serve: Serve, filling: Filling, tmp_path: Path) -> None:
    filling.pull(MODEL, include=["*.json", "*.md"])
    with filling.source() as source:
        further = Filling(tmp_path / "further", str(serve(source).base_url))
        assert further.pull(MODEL).failed == []
    assert further.shown().keys() == {"config.json", "README.md"}


@pytest.mark.parametrize(
    "revision",
    [
        "main",
        "refs/pr/1",
        "v1",
        "feature/x",
    ],
)
def test_an_unchanged_revision_needs_one_request_and_no_write(
    simulator: HubSimulator, filling: Filling, revision: str
) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    simulator.repo(MODEL).refs |= dict.fromkeys(["refs/tags/v1", "feature/x", "refs/pr/1"], commit)
    filling.pull(f"{MODEL}@{revision}")
    before, requests = mtimes(filling.folder().path), simulator.count(MODEL)
    filling.pull(f"{MODEL}@{revision}")
    assert filling.outcomes == ["pulled", "up to date"]
    assert mtimes(filling.folder().path) == before
    assert simulator.count(MODEL) == requests + 1


def test_unchanged_repositories_need_one_request_each(
    simulator: HubSimulator, filling: Filling
) -> None:
    repos = [f"org/model-{number}" for number in range(20)]
    for repo in repos:
        simulator.repo(repo).commit({"config.json": repo.encode()})
    filling.pull(*repos)
    simulator.requests.clear()
    filling.pull(*repos)
    assert simulator.count("/api/models/") == simulator.count("/revision/main") == 20
    assert len(simulator.requests) == 21  # one request asks for the identity


def test_a_new_revision_transfers_only_changed_files(
    simulator: HubSimulator, filling: Filling
) -> None:
    old = simulator.repo(MODEL).refs["main"]
    filling.pull(MODEL)
    simulator.requests.clear()
    simulator.repo(MODEL).commit(NEWER)
    filling.pull(MODEL)
    assert filling.shown() == NEWER
    assert filling.shown(old) == FILES
    assert simulator.count("GET .*/resolve/") == 2
    assert simulator.count("GET .*/resolve/.*/(config.json|new.bin)") == 2


def test_the_same_file_of_two_repositories_is_stored_once(
    simulator: HubSimulator, filling: Filling
) -> None:
    simulator.repo("org/copy").commit({"copy.safetensors": FILES[WEIGHTS], "a.txt": b"a"})
    filling.pull(MODEL)
    filling.pull("org/copy")
    etag = entry(WEIGHTS, FILES[WEIGHTS]).etag
    blobs = [filling.folder(repo).blobs / etag for repo in (MODEL, "org/copy")]
    assert len({blob.stat().st_ino for blob in blobs}) == 1
    assert simulator.count("GET .*copy.safetensors") == 0
    assert filling.shown(repo="org/copy")["copy.safetensors"] == FILES[WEIGHTS]


def test_the_same_file_of_two_repositories_is_fetched_once_per_run(
    simulator: HubSimulator, filling: Filling
) -> None:
    repos = [f"org/copy-{number}" for number in range(4)]
    for repo in repos:
        simulator.repo(repo).commit({"same.safetensors": FILES[WEIGHTS], "id": repo.encode()})
    assert filling.pull(*repos).failed == []
    etag = entry(WEIGHTS, FILES[WEIGHTS]).etag
    assert len({(filling.folder(repo).blobs / etag).stat().st_ino for repo in repos}) == 1
    assert simulator.count("GET .*same.safetensors") == 1


def test_files_with_the_same_content_are_fetched_once(
    simulator: HubSimulator, filling: Filling
) -> None:
    files = {"a.bin": b"same" * 1000, "b/c.bin": b"same" * 1000, "d.txt": b"", "e.txt": b""}
    simulator.repo(MODEL).commit(files)
    filling.pull(MODEL)
    assert filling.shown() == files
    assert simulator.count(r"GET .*/resolve/") == 1  # an empty file needs none


def test_wider_filters_add_files_and_warn(simulator: HubSimulator, filling: Filling) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    filling.pull(MODEL, include=["*.json"])
    assert "served with fewer files before" not in filling.notes
    filling.pull(MODEL, include=["*.md"])
    assert "org/model at" in filling.notes
    assert "served with fewer files before" in filling.notes
    assert filling.shown().keys() == {"config.json", "README.md"}
    assert parse_tree(filling.folder().tree(commit).read_bytes()).keys() == filling.shown().keys()
    assert len(filling.record(commit).left_out) == len(FILES) - 2


def test_narrower_filters_keep_all_files(filling: Filling) -> None:
    filling.pull(MODEL)
    filling.pull(MODEL, include=["*.json"])
    assert filling.shown() == FILES
    assert filling.outcomes == ["pulled", "up to date"]


def test_another_ref_of_a_commit_is_added(simulator: HubSimulator, filling: Filling) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    simulator.repo(MODEL).refs["refs/tags/v1"] = commit
    filling.pull(MODEL)
    filling.pull(f"{MODEL}@v1")
    assert filling.record(commit).refs == ("refs/heads/main", "refs/tags/v1")
    assert simulator.count("GET .*/resolve/") == len(FILES) - 1  # an empty file needs none


def test_branches_with_the_same_last_part_are_distinct(
    simulator: HubSimulator, filling: Filling
) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    simulator.repo(MODEL).refs |= {"feature/x": commit, "x": commit}
    filling.pull(f"{MODEL}@feature/x")
    filling.pull(f"{MODEL}@x")
    assert filling.shown("x") == FILES


def test_two_refs_of_a_commit_in_one_run(simulator: HubSimulator, filling: Filling) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    simulator.repo(MODEL).refs["refs/tags/v1"] = commit
    assert filling.pull(MODEL, f"{MODEL}@v1").failed == []
    assert set(filling.record(commit).refs) == {"refs/heads/main", "refs/tags/v1"}


def test_two_filters_of_a_commit_in_one_run(filling: Filling) -> None:
    specs = [RepoSpec(Repo.parse(MODEL), include=(pattern,)) for pattern in ("*.json", "*.md")]
    assert filling.pull(*specs).failed == []
    assert filling.shown().keys() == {"config.json", "README.md"}


def test_a_ref_that_upstream_moved_back(simulator: HubSimulator, filling: Filling) -> None:
    old = simulator.repo(MODEL).refs["main"]
    filling.pull(MODEL)
    new = simulator.repo(MODEL).commit(NEWER)
    filling.pull(MODEL)
    simulator.repo(MODEL).refs["main"] = old
    filling.pull(MODEL)
    assert filling.shown() == FILES
    assert filling.shown(new) == NEWER
    assert filling.folder().refs() == {"refs/heads/main": old}


def test_a_ref_that_another_pull_moved_is_kept(simulator: HubSimulator, filling: Filling) -> None:
    repo = simulator.repo(MODEL)
    repo.refs["refs/tags/v1"] = old = repo.refs["main"]
    filling.pull(MODEL)
    slower, plans = filling.plan(f"{MODEL}@v1")
    repo.commit(NEWER)
    filling.pull(MODEL)
    assert slower.run(plans).failed == []
    assert filling.shown() == NEWER
    assert filling.shown("v1") == filling.shown(old) == FILES


def test_removed_links_and_refs_are_restored(simulator: HubSimulator, filling: Filling) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    filling.pull(MODEL)
    requests = simulator.count("GET .*/resolve/")
    folder = filling.folder()
    (folder.snapshot(commit) / WEIGHTS).unlink()
    folder.tree(commit).unlink()
    (folder.path / "refs" / "main").unlink()
    filling.pull(MODEL)
    assert (folder.snapshot(commit) / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert folder.tree(commit).is_file()
    assert (folder.path / "refs" / "main").read_text() == commit
    assert simulator.count("GET .*/resolve/") == requests


def test_a_branch_that_moves_during_the_pull(simulator: HubSimulator, filling: Filling) -> None:
    repo = simulator.repo(MODEL)
    old = repo.refs["main"]
    simulator.fail(f"GET .*{WEIGHTS}", after(lambda: repo.commit(NEWER)))
    assert filling.pull(MODEL).failed == []
    assert filling.shown() == filling.shown(old) == FILES
    filling.pull(MODEL)
    assert filling.shown() == NEWER


def test_a_commit_that_vanishes_during_the_pull(simulator: HubSimulator, filling: Filling) -> None:
    repo = simulator.repo(MODEL)
    old = repo.refs["main"]

    def rewrite() -> None:
        repo.commit(NEWER)
        del repo.commits[old]

    simulator.fail("GET .*/tree/", after(rewrite))
    (failed,) = filling.pull(MODEL).failed
    assert f"org/model has no revision {old}" in failed
    filling.pull(MODEL)
    assert filling.shown() == NEWER


NAMED = [
    ("config.json", {"auto_map": {"AutoModel": "org/other--modeling.Model"}}, "its code"),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["org/other--t.T", None]}}, "code"),
    ("adapter_config.json", {"base_model_name_or_path": "org/other"}, "its base model"),
    ("config.json", {"speculative_config": {"model": "org/other"}}, "its draft model"),
    ("generation_config.json", {"assistant_model": "org/other"}, "its draft model"),
    ("config.json", {"processor_name_or_path": "org/other"}, "its processor"),
    (
        "config.json",
        {"speculators_config": {"verifier": {"name_or_path": "org/other"}}},
        "the target model of this draft model",
    ),
]


@pytest.mark.parametrize(("name", "body", "why"), NAMED)
def test_repositories_that_a_model_names_are_needed(
    simulator: HubSimulator, filling: Filling, name: str, body: object, why: str
) -> None:
    simulator.repo(MODEL).commit({name: json.dumps(body).encode()})
    (need,) = filling.pull(MODEL).needs
    assert need.repo == Repo.parse("org/other")
    assert why in need.why


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("config.json", b'{"auto_map": {"AutoModel": "modeling.Model"}}'),
        ("config.json", b'{"auto_map": {"AutoModel": "ORG/model--modeling.Model"}}'),
        ("config.json", b'{"_name_or_path": "org/other"}'),
        ("config.json", b"not JSON"),
        ("adapter_config.json", b'{"base_model_name_or_path": "/home/me/base"}'),
        ("adapter_config.json", b'{"base_model_name_or_path": null}'),
        ("tokenizer_config.json", b'{"name_or_path": "org/other"}'),
        ("other.json", b'{"base_model_name_or_path": "org/other"}'),
    ],
)
def test_a_model_without_references_needs_no_repository(
    simulator: HubSimulator, filling: Filling, name: str, body: bytes
) -> None:
    simulator.repo(MODEL).commit({name: body})
    assert filling.pull(MODEL).needs == []


def test_needs_include_present_repositories(simulator: HubSimulator, filling: Filling) -> None:
    config = b'{"auto_map": {"AutoModel": "Org/Other--modeling.Model"}}'
    simulator.repo(MODEL).commit({"config.json": config})
    simulator.repo("org/other").commit({"modeling.py": b"pass"})
    cache = Cache.of(filling.hub)
    (need,) = filling.pull(MODEL).needs
    assert not has_complete_revision(cache, need.repo)
    filling.pull("org/other")
    assert has_complete_revision(cache, need.repo)


@pytest.mark.parametrize("damage", [False, True])
def test_copied_blobs_are_checked(
    filling: Filling,
    damage: bool,  # noqa: FBT001
) -> None:
    """A cache without records, like a cache of huggingface_hub."""
    filling.pull(MODEL)
    blobs = filling.folder().blobs
    shutil.rmtree(filling.folder().records)
    weights = blobs / entry(WEIGHTS, FILES[WEIGHTS]).etag
    if damage:
        weights.write_bytes(bytes(weights.stat().st_size))
    filling.pull(MODEL)
    assert filling.shown() == FILES
    assert ("is corrupt. It is fetched again." in filling.notes) is damage
    assert "of local files without a record" in filling.notes


def test_unchecked_blobs_are_not_linked(filling: Filling, simulator: HubSimulator) -> None:
    simulator.repo("org/fork").commit(FILES)
    filling.pull(MODEL)
    shutil.rmtree(filling.folder().records)
    weights = filling.folder().blobs / entry(WEIGHTS, FILES[WEIGHTS]).etag
    weights.write_bytes(bytes(weights.stat().st_size))
    filling.pull("org/fork")
    assert filling.shown(repo="org/fork") == FILES
