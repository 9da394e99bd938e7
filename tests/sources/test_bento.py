"""A Bento store, served in place: as hubmirror, OpenLLM and BentoML write it, and as it gets."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror.core.errors import (
    BlobUnreadableError,
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionIncompleteError,
    RevisionNotFoundError,
    UnavailableError,
)
from mirror.core.record import render_files
from mirror.core.repo import Repo, RepoType
from mirror.core.source import Snapshot
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.server.opened_sources import open_sources
from mirror.sources import bento_index
from mirror.sources.bento import BentoStore
from mirror.sources.bento_entry import read_yaml, repo_id_of
from mirror.sources.first_found import FirstFound
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from tests.carried import hubmirror
from tests.conftest import Serve
from tests.folders import COMMIT, FILES, MODEL, OLDER, Content, content_of, make_managed, write
from tests.waiting import until

DERIVED = Repo.parse("org/model")
IMPORTED: dict[str, Any] = {"labels": {"backend": "vllm", "framework": "transformers"},
            "metadata": {"_revision": COMMIT, "_framework": "pt"}}  # fmt: skip


def make_entry(home: Path, tag: str, content: Content | None = None, **told: Any) -> Path:
    """An entry as BentoML leaves it; `told` replaces parts of its model.yaml."""
    content, (name, _, version) = content or Content(), tag.partition(":")
    folder = home / "models" / name / version
    for path, body in content.files.items():
        write(folder / path, body)
    model = {
        "name": name, "version": version, "module": "", "labels": {}, "options": {}, "metadata": {},
        "context": {"framework_name": "transformers", "framework_versions": {},
                    "bentoml_version": "1.4.39", "python_version": "3.11.7"},
        "signatures": {}, "api_version": "v1", "creation_time": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    write(folder / "model.yaml", yaml.dump(model | told, Dumper=yaml.CSafeDumper).encode())
    write(folder.parent / "latest", version.encode())
    return folder


def added(content: Content | None = None, revision: str = "main", **changes: Any) -> dict[str, Any]:
    """The metadata of an entry that `bento add` wrote."""
    content = content or Content()
    origin = {
        "repo_id": content.repo.repo_id, "repo_type": content.repo.repo_type.value,
        "revision": revision, "commit_hash": content.commit_hash,
        "files": render_files(content.entries.values()),
    }  # fmt: skip
    return {"_revision": content.commit_hash, "hubmirror": origin | changes}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "data" / "bentoml"


@pytest.fixture
def store(home: Path, digests: Digests) -> BentoStore:
    return BentoStore(home, digests, ttl_s=0)


def bodies(store: BentoStore, repo: Repo = MODEL, revision: str = "main") -> dict[str, bytes]:
    files = store.snapshot(repo, revision).files
    return {path: content_of(stored) for path, stored in files.items()}


# What `bento add` wrote


def test_an_entry_of_ours_is_served_without_reading_it(home: Path, tmp_path: Path) -> None:
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    stopped = Digests(State(tmp_path / "state"))
    stopped.close()
    store = BentoStore(home, stopped)
    snapshot = store.snapshot(MODEL, "main")
    assert (snapshot.repo, snapshot.commit_hash, snapshot.note) == (MODEL, COMMIT, "")
    assert {path: one.file for path, one in snapshot.files.items()} == Content().entries
    assert bodies(store) == FILES


@pytest.mark.parametrize("text", ["datasets/Org/Data", "spaces/Org/App", "Org/Model.v1_2", "bare"])
def test_a_repository_of_every_type_and_name(home: Path, store: BentoStore, text: str) -> None:
    content = Content(repo=Repo.parse(text))
    make_entry(home, f"any-name:{COMMIT}", metadata=added(content))
    assert store.repos() == [content.repo]
    assert bodies(store, content.repo) == FILES
    other = RepoType.DATASET if content.repo.repo_type is not RepoType.DATASET else RepoType.MODEL
    with pytest.raises(RepositoryNotFoundError):
        store.snapshot(Repo(other, content.repo.repo_id), "main")


def test_entries_for_two_generations_are_one_revision(home: Path, store: BentoStore) -> None:
    for name in ("org--model", "vllm-org--model", "pt-org--model"):
        make_entry(home, f"{name}:{COMMIT}", metadata=added())
    assert store.repos() == [MODEL]
    assert store.commits(MODEL) == [COMMIT]
    assert store.refs(MODEL) == {"refs/heads/main": COMMIT}


@pytest.mark.parametrize(
    ("revision", "ref"),
    [("main", "refs/heads/main"), ("v1", "refs/heads/v1"), ("refs/pr/1", "refs/pr/1"),
     ("", "refs/heads/main"), (COMMIT, "refs/heads/main")],
)  # fmt: skip
def test_the_revision_that_was_added(
    home: Path, store: BentoStore, revision: str, ref: str
) -> None:
    make_entry(home, f"org--model:{COMMIT}", metadata=added(revision=revision))
    assert store.refs(MODEL) == {ref: COMMIT}
    for asked in ("HEAD", COMMIT, COMMIT[:7], ref, ref.removeprefix("refs/heads/")):
        assert store.snapshot(MODEL, asked).commit_hash == COMMIT
    with pytest.raises(RevisionNotFoundError, match="nope"):
        store.snapshot(MODEL, "nope")


def test_several_versions_of_a_repository(home: Path, store: BentoStore) -> None:
    old = Content({"config.json": b"{}"}, OLDER)
    make_entry(home, f"org--model:{OLDER}", old, metadata=added(old),
               creation_time="2027-01-01T00:00:00+00:00")  # fmt: skip
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    assert store.repos() == [MODEL]
    assert sorted(store.commits(MODEL)) == sorted([COMMIT, OLDER])
    assert store.refs(MODEL) == {"refs/heads/main": COMMIT}  # `latest` decides, not the time
    assert set(bodies(store, revision=OLDER)) == {"config.json"}
    write(home / "models" / "org--model" / "latest", OLDER.encode())
    assert store.refs(MODEL) == {"refs/heads/main": OLDER}
    (home / "models" / "org--model" / "latest").unlink()
    assert store.refs(MODEL) == {"refs/heads/main": OLDER}  # the newer of both


def test_branches_beside_each_other(home: Path, store: BentoStore) -> None:
    old = Content({"config.json": b"{}"}, OLDER)
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    make_entry(home, f"org--model:{OLDER}", old, metadata=added(old, "v1"))
    assert store.refs(MODEL) == {"refs/heads/main": COMMIT, "refs/heads/v1": OLDER}
    assert store.snapshot(MODEL, "HEAD").commit_hash == COMMIT


def test_case_does_not_matter(home: Path, store: BentoStore) -> None:
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    assert store.snapshot(Repo.parse("oRG/mODEL"), "main").repo == MODEL


def test_a_repository_is_listed_once_in_its_true_case(home: Path, store: BentoStore) -> None:
    make_entry(home, f"aaa-org--model:{COMMIT}", metadata=added())
    make_entry(home, f"vllm-org--model:{COMMIT}", **IMPORTED)
    make_entry(home, f"zzz:{OLDER}", metadata=added(Content({"a": b"b"}, OLDER), "v1"))
    assert store.repos() == [MODEL]


# What OpenLLM and BentoML wrote


def test_an_entry_that_openllm_imported(home: Path, store: BentoStore) -> None:
    make_entry(home, f"vllm-org--model:{COMMIT}", **IMPORTED)
    snapshot = store.snapshot(DERIVED, "main")
    assert (snapshot.repo, snapshot.commit_hash) == (DERIVED, COMMIT)
    assert {path: one.file for path, one in snapshot.files.items()} == Content().entries
    assert "derived from the tag vllm-org--model:" in snapshot.note
    assert not snapshot.find("config.json").file.xet_hash


def test_an_entry_for_openllm_0_5(home: Path, store: BentoStore) -> None:
    make_entry(home, f"org--model:{COMMIT}")
    assert store.snapshot(DERIVED, COMMIT).commit_hash == COMMIT
    assert bodies(store, DERIVED) == FILES


def test_an_entry_that_names_no_commit_has_the_id_of_its_tree(
    home: Path, store: BentoStore, tmp_path: Path, digests: Digests
) -> None:
    make_entry(home, "org--model:abcdefg", labels={"backend": "pt"})
    for path, body in FILES.items():
        write(tmp_path / "plain" / path, body)
    plain = Folder(tmp_path / "plain", DERIVED, digests).snapshot(DERIVED, "main")
    snapshot = store.snapshot(DERIVED, "main")
    assert snapshot.commit_hash == plain.commit_hash
    assert snapshot.whole
    write(home / "models/org--model/abcdefg/config.json", b"[]")
    assert store.snapshot(DERIVED, "main").commit_hash != plain.commit_hash


def test_what_an_entry_lacks_is_no_promise(home: Path, store: BentoStore) -> None:
    """It holds what a start needed, which may be a part of the commit."""
    make_entry(home, f"vllm-org--model:{COMMIT}", **IMPORTED)
    with pytest.raises(EntryNotFoundError) as failure:
        store.snapshot(DERIVED, "main").find("nope.json")
    assert not failure.value.known


def test_what_bentoml_keeps_is_no_file_of_the_repository(home: Path, store: BentoStore) -> None:
    content = Content({"config.json": b"{}", "deep/model.yaml": b"a: b"})
    make_entry(home, f"org--model:{COMMIT}", content)
    assert bodies(store, DERIVED) == content.files


@pytest.mark.parametrize(
    ("name", "backend", "repo_id"),
    [
        ("org--model", "", "org/model"), ("pt-org--model", "", "org/model"),
        ("vllm-meta-llama--llama-3.2-1b", "", "meta-llama/llama-3.2-1b"),
        ("ctranslate-a--b", "", "a/b"), ("triton-a--b", "", "a/b"), ("ggml-a--b", "", "a/b"),
        ("mybackend-a--b", "mybackend", "a/b"), ("pt-a--b", "vllm", "a/b"), ("gpt2", "", "gpt2"),
        ("pt-gpt2", "pt", "gpt2"), ("ptolemy--b", "", "ptolemy/b"), ("a--b--c", "", "a/b--c"),
        ("pt", "pt", "pt"), ("pt-", "", "pt-"),
    ],
)  # fmt: skip
def test_the_repository_that_a_tag_was_made_from(name: str, backend: str, repo_id: str) -> None:
    assert repo_id_of(name, backend) == repo_id


# What is not as it should be


def test_a_file_that_changed_its_size_is_not_served(home: Path, store: BentoStore) -> None:
    folder = make_entry(home, f"org--model:{COMMIT}", metadata=added())
    write(folder / "model.safetensors", b"short")
    (folder / "README.md").unlink()
    (folder / "empty.txt").unlink()
    (folder / "empty.txt").symlink_to("config.json")
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    shutil.rmtree(folder / "sub dir")
    write(folder / "sub dir", b"")
    with pytest.raises(RevisionIncompleteError, match=r"Bento store's entry org--model:") as raised:
        store.snapshot(MODEL, "main")
    assert raised.value.absent == {
        "model.safetensors": "was changed", "README.md": "is missing", "empty.txt": "was changed",
        "config.json": "was changed", "sub dir/deep/\u00fcn\u00ef#100%+?.txt": "is missing",
    }  # fmt: skip
    assert "corrupt" in run(home, "ls")


def test_another_entry_of_the_commit_answers_for_a_changed_one(
    home: Path, store: BentoStore
) -> None:
    changed = make_entry(home, f"org--model:{COMMIT}", metadata=added())
    make_entry(home, f"vllm-org--model:{COMMIT}", metadata=added())
    write(changed / "config.json", b"changed")
    assert "vllm-" in str(store.snapshot(MODEL, "main").find("config.json").local_path)


def test_a_file_that_changes_after_a_look_is_not_sent(home: Path, digests: Digests) -> None:
    folder = make_entry(home, f"org--model:{COMMIT}", metadata=added())
    stored = BentoStore(home, digests).snapshot(MODEL, "main").find("config.json")
    write(folder / "config.json", b"other size")
    with pytest.raises(BlobUnreadableError):
        stored.open()


BROKEN = {
    "empty": b"", "nonsense": b"\xff\xfe\x00", "open": b"a: [", "a list": b"- a\n", "a word": b"a",
    "two": b"a: 1\n---\nb: 2\n", "tags": b"metadata: !!python/object:os.system {}\n",
    "parts of other kinds": b"metadata: [1]\nlabels: 5\ncreation_time: {a: b}\n",
    "no time": b"creation_time: 2026-99-99\nlabels: {backend: null}\n",
    "an origin of other kinds": b"metadata: {hubmirror: {repo_id: [a], repo_type: {}}}\n",
    "an origin that is no id": b"metadata: {hubmirror: {repo_id: ../../x, repo_type: model}}\n",
    "an unknown type": b"metadata: {hubmirror: {repo_id: a/b, repo_type: table}}\n",
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model_yaml_spoils_no_other_entry(
    home: Path, store: BentoStore, what: str
) -> None:
    """It is served as what its tag tells, and said to be."""
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    folder = make_entry(home, f"a--b:{OLDER}", Content({"a": b"b"}))
    write(folder / "model.yaml", BROKEN[what])
    assert sorted(map(str, store.repos())) == ["Org/Model", "a/b"]
    assert bodies(store, Repo.parse("a/b"), OLDER) == {"a": b"b"}
    assert "derived" in store.snapshot(Repo.parse("a/b"), OLDER).note


FORGED = {
    "outside": {"../../secret": {"size": 6, "blob_id": 40 * "a"}},
    "absolute": {"/etc/hostname": {"size": 6, "blob_id": 40 * "a"}},
    "infinite": {"a": {"size": float("inf"), "blob_id": 40 * "a"}},
    "no number": {"a": {"size": float("nan"), "blob_id": 40 * "a"}},
    "a word": {"a": {"size": "x", "blob_id": 40 * "a"}},
    "no id": {"a": {"size": 1}},
    "a number for a hash": {"a": {"size": 1, "blob_id": 40 * "a", "lfs_sha256": 5}},
    "a list": ["a"], "a list in it": {"a": [1]}, "a number": 5, "an odd key": {5: {"size": 1}},
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_list_of_files_that_is_none_is_not_believed(
    home: Path, store: BentoStore, what: str, tmp_path: Path
) -> None:
    write(tmp_path / "data" / "secret", b"secret")
    make_entry(home, f"org--model:{COMMIT}", metadata=added(files=FORGED[what]))
    assert bodies(store) == FILES


def test_a_list_of_many_files_is_read_to_its_end(home: Path, store: BentoStore) -> None:
    """A data set may have thousands."""
    content = Content({f"data/part-{number:06}.bin": b"" for number in range(5000)},
                      repo=Repo.parse("datasets/Org/Data"))  # fmt: skip
    folder = make_entry(home, f"org--data:{COMMIT}", Content({}), metadata=added(content))
    assert (folder / "model.yaml").stat().st_size > 1_000_000
    assert store.repos() == [content.repo]
    with pytest.raises(RevisionIncompleteError) as raised:
        store.snapshot(content.repo, "main")
    assert len(raised.value.absent) == 5000


def test_text_that_is_nested_without_end_ends_no_server(home: Path) -> None:
    """In a process of its own: libyaml's loader recurses in C."""
    folder = make_entry(home, f"org--model:{COMMIT}")
    for body in (b"metadata: " + b"[" * 200_000, b"- " * 200_000):
        write(folder / "model.yaml", body)
        program = (
            "from pathlib import Path; from mirror.sources.bento_entry import entries; "
            f"print(len(entries(Path({str(home)!r}))))"
        )
        path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True)
        assert (done.returncode, done.stdout.strip()) == (0, b"1")


def test_text_that_multiplies_takes_no_time(home: Path, store: BentoStore) -> None:
    lines = ["l0: &l0 [a,a,a,a,a,a,a,a,a]"]
    lines += [f"l{n}: &l{n} [{','.join(9 * [f'*l{n - 1}'])}]" for n in range(1, 9)]
    folder = make_entry(home, f"org--model:{COMMIT}")
    write(folder / "model.yaml", "\n".join([*lines, "labels: {backend: *l8}"]).encode())
    assert store.repos() == [DERIVED]
    write(folder / "model.yaml", b"creation_time: " + 100_000 * b"1:" + b"1\n")
    assert store.repos() == [DERIVED]


@pytest.mark.parametrize("name", ["a--b--c", "-a", "a--", ".tmp", "a b", "a.git"])
def test_a_name_that_no_repository_has_is_not_listed(
    home: Path, store: BentoStore, name: str
) -> None:
    make_entry(home, f"{name}:{COMMIT}")
    make_entry(home, f"org--model:{OLDER}")
    assert store.repos() == [DERIVED]


def test_what_lies_about_in_a_store_is_no_entry(home: Path, store: BentoStore) -> None:
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    shutil.copytree(home / "models", home / ".hubmirror-0123abcd")
    (home / "models" / "no--version").mkdir()
    (home / "models" / "half--made" / "abc").mkdir(parents=True)
    write(home / "models" / "file", b"")
    write(home / "models" / "org--model" / "file", b"")
    write(home / "bentos" / "a" / "b" / "bento.yaml", b"")
    (home / "models" / "link").symlink_to("nowhere")
    assert store.repos() == [MODEL]
    assert len(store.entries()) == 1


@pytest.mark.parametrize("latest", [b"", b"\xff", b"../..", b"nope", b"\n"])
def test_a_damaged_latest_hides_nothing(home: Path, store: BentoStore, latest: bytes) -> None:
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    write(home / "models" / "org--model" / "latest", latest)
    assert bodies(store) == FILES


def test_a_store_of_nothing(home: Path, store: BentoStore) -> None:
    assert store.repos() == []
    (home / "models").mkdir(parents=True)
    assert store.repos() == []
    with pytest.raises(RepositoryNotFoundError, match="Org/Model is not in this mirror"):
        store.snapshot(MODEL, "main")


def test_a_store_that_cannot_be_read_is_an_outage(home: Path, store: BentoStore) -> None:
    write(home / "models", b"a file")
    with pytest.raises(UnavailableError) as failure:
        store.repos()
    assert str(home) not in str(failure.value)


def test_a_change_gives_another_stamp(home: Path, store: BentoStore) -> None:
    stamps = []
    for version in (OLDER, COMMIT):
        content = Content(commit_hash=version)
        make_entry(home, f"org--model:{version}", content, metadata=added(content))
        stamps.append(store.stamp(MODEL))
    (home / "models" / "org--model" / COMMIT / "README.md").unlink()
    stamps.append(store.stamp(MODEL))
    assert len(set(stamps)) == 3
    assert store.stamp(MODEL) == stamps[-1]


def test_what_is_put_there_is_seen_at_once(home: Path, digests: Digests) -> None:
    store = BentoStore(home, digests, ttl_s=0)
    folder = make_entry(home, f"org--model:{COMMIT}")
    assert store.repos() == [DERIVED]
    model = yaml.safe_load((folder / "model.yaml").read_text()) | {"metadata": added()}
    write(folder / "model.yaml", yaml.safe_dump(model).encode())
    assert store.repos() == [MODEL]
    make_entry(home, f"a--b:{COMMIT}")
    assert len(store.repos()) == 2
    shutil.rmtree(home / "models" / "a--b")
    assert store.repos() == [MODEL]


def test_a_store_that_comes_after_the_start_is_seen(tmp_path: Path) -> None:
    home = tmp_path / "data" / "bentoml"
    home.parent.mkdir()
    place = open_sources(tmp_path / "data", None, [])
    assert list(place.sources.repos()) == []
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    until(lambda: list(place.sources.repos()) == [MODEL], 5)
    assert place.sources.snapshot(MODEL, "main").files.keys() == FILES.keys()


def test_the_time_of_an_entry(home: Path, store: BentoStore) -> None:
    for number, (text, year) in enumerate(
        [("2026-01-02T03:04:05+00:00", 2026), ("2026-01-02T03:04:05", 2026), ("soon", 1970),
         (None, 1970), (5, 1970)]
    ):  # fmt: skip
        make_entry(home, f"a--b{number}:{COMMIT}", Content({}), creation_time=text)
        moment = store.snapshot(Repo.parse(f"a/b{number}"), "main").last_modified
        assert (moment.year, moment.tzinfo) == (year, UTC)


# With the other sources, and the commands


def test_the_managed_cache_answers_first(
    home: Path, hub: Path, managed: HfCache, store: BentoStore
) -> None:
    make_managed(hub)
    old = Content({"a": b"b"}, OLDER)
    make_entry(home, f"org--model:{OLDER}", old, metadata=added(old))
    make_entry(home, f"only--here:{OLDER}", old)
    both = FirstFound([managed, store])
    assert both.snapshot(MODEL, "main").commit_hash == COMMIT
    assert both.snapshot(Repo.parse("only/here"), "main").commit_hash == OLDER
    with pytest.raises(RevisionNotFoundError):
        both.snapshot(MODEL, OLDER)


def run(home: Path, *words: str, status: int = 0) -> str:
    result = hubmirror(home.parent, *words, status=status)
    return " ".join(result.output.split())


def test_ls_tells_what_is_derived_and_what_is_shadowed(home: Path) -> None:
    make_managed(home.parent / "hub")
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    make_entry(home, f"vllm-a--b:{OLDER}", Content({"a": b"b"}), **IMPORTED)
    listed = run(home, "ls", "--json")
    assert '"status":"shadowed"' in listed
    assert f"derived from the tag vllm-a--b:{OLDER}" in listed
    assert f'"commit_hash":"{COMMIT}"' in listed
    assert "does not keep upper case letters and underscores" in listed


def test_a_store_elsewhere_is_a_source(home: Path, tmp_path: Path) -> None:
    make_entry(tmp_path / "store", f"org--model:{COMMIT}", metadata=added())
    home.parent.mkdir()
    assert '"repo_id":"Org/Model"' in run(
        home, "ls", "--json", "--source", f"bento:{tmp_path}/store"
    )


def test_verify_reads_a_store(home: Path) -> None:
    folder = make_entry(home, f"org--model:{COMMIT}", metadata=added())
    assert "No problems found" in run(home, "verify")
    size = len(FILES["model.safetensors"])
    write(folder / "model.safetensors", size * b"x")
    said = run(home, "verify", status=1)
    assert "corrupt Org/Model model.safetensors" in said
    write(folder / "config.json", b"")
    (folder / "README.md").unlink()
    said = run(home, "verify", status=1)
    assert "missing Org/Model config.json was changed." in said
    assert "missing Org/Model README.md is missing." in said
    assert "2 problems." in said
    assert (folder / "model.safetensors").stat().st_size == size  # it is not ours to change


def test_rm_takes_entries_away(home: Path, store: BentoStore) -> None:
    old = Content({"a": b"b"}, OLDER)
    make_entry(home, f"a--b:{COMMIT}", metadata=added(Content(repo=Repo.parse("A/B"))))
    make_entry(home, f"org--model:{OLDER}", old, metadata=added(old, "v1"))
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    make_entry(home, f"vllm-org--model:{COMMIT}", metadata=added())
    latest = home / "models" / "org--model" / "latest"
    said = run(home, "rm", f"org/model@{COMMIT}")
    assert f"Removed org--model:{COMMIT} from the Bento store: " in said
    assert f" freed. Removed vllm-org--model:{COMMIT} from the Bento store: " in said
    assert latest.read_text() == OLDER
    assert not (home / "models" / "vllm-org--model").exists()
    assert store.refs(MODEL) == {"refs/heads/v1": OLDER}
    run(home, "rm", "Org/Model@v1")
    assert [str(repo) for repo in store.repos()] == ["A/B"]
    assert not latest.parent.exists()
    assert list(home.glob(".hubmirror-*")) == []
    assert "neither in the data folder" in run(home, "rm", "Org/Model", status=1)


def test_rm_of_what_is_not_latest_leaves_latest(home: Path) -> None:
    old = Content({"a": b"b"}, OLDER)
    make_entry(home, f"org--model:{OLDER}", old, metadata=added(old, "v1"))
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    run(home, "rm", "Org/Model@v1")
    assert (home / "models" / "org--model" / "latest").read_text() == COMMIT


def test_rm_takes_no_other_type(home: Path, store: BentoStore) -> None:
    data = Content(repo=Repo.parse("datasets/Org/Model"))
    make_entry(home, f"data:{COMMIT}", metadata=added(data))
    make_entry(home, f"model:{COMMIT}", metadata=added())
    run(home, "rm", "datasets/Org/Model")
    assert store.repos() == [MODEL]


def test_rm_of_a_revision_that_the_store_alone_still_has(home: Path, store: BentoStore) -> None:
    make_managed(home.parent / "hub")
    old = Content({"a": b"b"}, OLDER)
    make_entry(home, f"org--model:{OLDER}", old, metadata=added(old))
    assert f"Removed org--model:{OLDER}" in run(home, "rm", f"Org/Model@{OLDER}")
    assert store.repos() == []
    assert "Org/Model" in run(home, "ls", "--json")


def test_rm_takes_both(home: Path) -> None:
    make_managed(home.parent / "hub")
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    said = run(home, "rm", "Org/Model")
    assert "freed" in said
    assert "from the Bento store" in said
    assert run(home, "ls", "--json") == ""


# Over a real socket


@pytest.fixture
def url(home: Path, store: BentoStore, serve: Serve) -> str:
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    make_entry(home, f"vllm-a--b:{OLDER}", Content({"a.txt": b"b"}))
    data = Content({"d.csv": b"1\n"}, OLDER, Repo.parse("datasets/Org/Data"))
    make_entry(home, f"data:{OLDER}", data, metadata=added(data))
    return str(serve(store).base_url)


def _download(url: str, folder: Path, calls: Mapping[str, str]) -> dict[str, dict[str, bytes]]:
    """What the real client fetches by each call, in a process of its own."""
    lines = [f"snapshot_download({call}, local_dir={str(folder / name)!r})"
             for name, call in calls.items()]  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", "\n".join(["from huggingface_hub import *", *lines])], check=True,
        env={"PATH": os.environ["PATH"], "HF_ENDPOINT": url, "HF_HOME": str(folder / "home"),
             "HF_HUB_DISABLE_TELEMETRY": "1"},
    )  # fmt: skip
    return {name: {
        str(path.relative_to(folder / name)): path.read_bytes()
        for path in (folder / name).rglob("*") if path.is_file() and ".cache" not in path.parts
    } for name in calls}  # fmt: skip


def test_the_real_client_downloads_from_a_store(url: str, tmp_path: Path) -> None:
    calls = {
        "ours": "'Org/Model'", "lower": f"'org/model', revision='{COMMIT}'", "derived": "'a/b'",
        "data": "'Org/Data', repo_type='dataset'",
    }  # fmt: skip
    assert _download(url, tmp_path / "got", calls) == {
        "ours": FILES, "lower": FILES, "derived": {"a.txt": b"b"}, "data": {"d.csv": b"1\n"},
    }  # fmt: skip


def test_a_changed_file_is_said_to_be(home: Path, store: BentoStore, serve: Serve) -> None:
    folder = make_entry(home, f"org--model:{COMMIT}", metadata=added())
    write(folder / "config.json", b"changed")
    answer = serve(store).get("/Org/Model/resolve/main/config.json")
    assert answer.status_code == 503
    assert "config.json was changed in the Bento store's entry" in answer.json()["error"]
    assert "bento add" in answer.json()["error"]


def test_a_time_in_the_listing(home: Path, store: BentoStore, serve: Serve) -> None:
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    (row,) = serve(store).get("/api/models", params={"full": "true"}).json()
    assert (row["id"], row["sha"]) == ("Org/Model", COMMIT)
    assert datetime.fromisoformat(row["lastModified"]).year == 2026


def test_a_fifo_in_the_place_of_latest_holds_nothing_up(home: Path, store: BentoStore) -> None:
    folder = make_entry(home, f"org--model:{COMMIT}", metadata=added())
    (folder.parent / "latest").unlink()
    os.mkfifo(folder.parent / "latest")
    (entry,) = store.entries()
    assert (entry.tag, entry.is_latest) == (f"org--model:{COMMIT}", False)


def test_a_model_yaml_with_a_number_that_takes_minutes(home: Path, store: BentoStore) -> None:
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    folder = make_entry(home, f"org--slow:{OLDER}")
    (folder / "model.yaml").write_bytes(b"a: " + 300_000 * b"1:" + b"1\n")
    assert next(entry.tag for entry in store.entries()) == f"org--model:{COMMIT}"


# The index


def test_a_look_reads_no_model_yaml_that_did_not_change(
    home: Path, store: BentoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one beyond a bound: a store of 5,000 entries is as large as one of 1,000."""
    read: list[Path] = []

    def counted(file: Path) -> dict[str, Any]:
        read.append(file)
        return read_yaml(file)

    monkeypatch.setattr(bento_index, "read_yaml", counted)
    names = [f"org--model-{number:04}" for number in range(1100)]
    for name in names:
        make_entry(home, f"{name}:{COMMIT}", Content({}))
    assert len(store.repos()) == len(names)
    first = len(read)
    for repo in (Repo.parse("org/model-0000"), Repo.parse("org/model-1099")):
        store.snapshot(repo, "main")
        store.stamp(repo)
    assert (first, len(read)) == (len(names), first)


def test_a_look_lasts_for_its_time(home: Path, digests: Digests) -> None:
    store = BentoStore(home, digests, ttl_s=60)
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    assert store.repos() == [MODEL]
    make_entry(home, f"a--b:{COMMIT}")
    assert store.repos() == [MODEL]


def test_those_who_ask_at_once_look_once(
    home: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def slow(file: Path) -> dict[str, Any]:
        time.sleep(0.05)
        read.append(file)
        return {}

    monkeypatch.setattr(bento_index, "read_yaml", slow)
    make_entry(home, f"a--b:{COMMIT}")
    store = BentoStore(home, digests)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: store.repos(), range(8)))
    assert (len(read), {len(one) for one in found}) == (1, {1})


def test_an_index_that_is_a_little_old_is_renewed_in_the_background(
    home: Path, digests: Digests
) -> None:
    store = BentoStore(home, digests, ttl_s=0.2)
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    assert store.repos() == [MODEL]
    make_entry(home, f"a--b:{COMMIT}")
    time.sleep(0.25)
    until(lambda: len(store.repos()) == 2, 5)


def test_a_latest_that_is_written_in_place_is_seen(home: Path, store: BentoStore) -> None:
    """BentoML truncates it: the folder's time stays."""
    old = Content({"config.json": b"{}"}, OLDER)
    make_entry(home, f"org--model:{OLDER}", old, metadata=added(old))
    folder = make_entry(home, f"org--model:{COMMIT}", metadata=added()).parent
    os.utime(folder, (1, 1))
    assert store.snapshot(MODEL, "main").commit_hash == COMMIT
    with (folder / "latest").open("w") as file:
        file.write(OLDER)
    os.utime(folder, (1, 1))
    assert store.snapshot(MODEL, "main").commit_hash == OLDER


def test_a_model_yaml_that_comes_after_its_folder_is_seen(home: Path, store: BentoStore) -> None:
    folder = make_entry(home, f"org--model:{COMMIT}", metadata=added())
    body = (folder / "model.yaml").read_bytes()
    (folder / "model.yaml").unlink()
    os.utime(folder.parent, (1, 1))
    assert store.repos() == []
    write(folder / "model.yaml", body)
    os.utime(folder.parent, (1, 1))
    assert store.repos() == [MODEL]


def test_lists_of_files_are_kept_within_a_bound(
    home: Path, store: BentoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bento_index, "_MAX_FILES", 2 * len(FILES))
    for number in range(6):
        content = Content(repo=Repo.parse(f"Org/Model{number}"))
        make_entry(home, f"org--model{number}:{COMMIT}", content, metadata=added(content))
    for repo in store.repos():
        assert bodies(store, repo) == FILES
    kept = store._index._files
    assert sum(len(files or ()) for _, files in kept.values()) <= 2 * len(FILES)


def test_the_stamp_of_an_entry_that_goes_meanwhile(home: Path, digests: Digests) -> None:
    store = BentoStore(home, digests, ttl_s=60)
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    store.stamp(MODEL)
    shutil.rmtree(home / "models" / "org--model")
    with pytest.raises(UnavailableError):
        store.stamp(MODEL)


@pytest.mark.parametrize(("repo", "asked"), [("Org/Model", 1), ("Org/None", 1)])
def test_a_source_is_asked_once(
    home: Path, store: BentoStore, monkeypatch: pytest.MonkeyPatch, repo: str, asked: int
) -> None:
    make_entry(home, f"org--model:{COMMIT}", metadata=added())
    questions: list[str] = []
    snapshot = store.snapshot

    def counted(repo: Repo, revision: str) -> Snapshot:
        questions.append(revision)
        return snapshot(repo, revision)

    monkeypatch.setattr(store, "snapshot", counted)
    with contextlib.suppress(RepositoryNotFoundError):
        FirstFound([store]).snapshot(Repo.parse(repo), "main")
    assert len(questions) == asked
