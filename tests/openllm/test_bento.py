"""OpenLLM 0.6: which bento is meant, all that its start needs, and what a GPU host is to set."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror.core.errors import ConfigError
from mirror.core.repo import Repo
from mirror.openllm.bento import Bento, find_bento, tags
from mirror.openllm.closure import Closure, PinnedModel
from mirror.openllm.model_repository import Address, ModelRepository
from mirror.openllm.wheels import Platform, WantedWheel
from tests.filling import Filling
from tests.folders import COMMIT
from tests.hub import HubSimulator
from tests.wheels import (
    DAY,
    MODEL_ID,
    bento_files,
    bento_yaml,
    commit,
    git,
    make_wheel,
    needs_git,
    needs_uv,
    run_index,
    serving_openllm_files,
    sha256,
    uv_set_to,
)

BRANCHES = ("main", "nightly")
TAG = "llama3.2:1b-instruct-fa1d"
FOLDER = "bentoml/bentos/llama3.2/1b-instruct-fa1d"
GEMMA = "gemma2:2b-0000"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder = tmp_path_factory.mktemp("openllm")
    upstream = folder / "openllm-models"
    lock = {f"bentoml/bentos/{GEMMA.replace(':', '/')}/env/python/requirements.lock.txt":
            b"# made by hand\n\nlocked==1.0\n  spaced >= 2  \n"}  # fmt: skip
    commit(upstream, bento_files(requirements="tiny-a\n#x\ntiny-b==1.0\n") | {
        **bento_files(GEMMA, aliases="2b"), **lock,
        **bento_files("qwen:7b-aaaa", aliases="''"), **bento_files("qwen:14b-bbbb", aliases="14b"),
        "bentoml/bentos/other/README.md": b"x", "bentoml/bentos/bento.yaml": b"a: b",
        "bentoml/bentos/llama3.2/deeper/src/bento.yaml": b"- a",
    })  # fmt: skip
    commit(upstream, bento_files("llama3.2:1b-instruct-new", python="3.12"), "nightly")
    commit(upstream, bento_files("phi:4-dddd", aliases="4"), "nightly")
    made = ModelRepository.of(folder, Address.parse(str(upstream)))
    made.pull(str(upstream), BRANCHES)
    return made


# Which bento is meant


@needs_git
@pytest.mark.parametrize(
    ("text", "tag"),
    [
        (TAG, TAG), ("llama3.2:1b", TAG), ("llama3.2:1b-instruct", TAG), ("gemma2", GEMMA),
        ("gemma2:2b", GEMMA), ("qwen:7b-aaaa", "qwen:7b-aaaa"), ("phi", "phi:4-dddd"),
        ("llama3.2:1b-instruct-new", "llama3.2:1b-instruct-new"),
    ],
)  # fmt: skip
def test_a_bento_is_found_by_its_names(repository: ModelRepository, text: str, tag: str) -> None:
    assert find_bento(repository, BRANCHES, text).tag == tag


@needs_git
def test_the_first_branch_answers_first(repository: ModelRepository) -> None:
    """`openllm serve` looks into its default repository alone, which is main."""
    assert find_bento(repository, BRANCHES, "llama3.2:1b").branch == "main"
    assert (
        find_bento(repository, ("nightly", "main"), "llama3.2:1b").tag == "llama3.2:1b-instruct-new"
    )


@needs_git
def test_a_name_that_means_several_is_refused_as_openllm_does(repository: ModelRepository) -> None:
    with pytest.raises(ConfigError, match=r"14b-bbbb.*7b-aaaa"):
        find_bento(repository, BRANCHES, "qwen")


@needs_git
def test_an_unknown_name_lists_those_that_are_there(repository: ModelRepository) -> None:
    told = r"^No bento matches llama:1b\. The available bentos are: gemma2, llama3\.2, phi, qwen\.$"
    with pytest.raises(ConfigError, match=told):
        find_bento(repository, BRANCHES, "llama:1b")


@needs_git
def test_an_unknown_version_lists_those_that_are_there(repository: ModelRepository) -> None:
    with pytest.raises(
        ConfigError, match=r"matches gemma2:9b\. The versions of gemma2 are: 2b, 2b-0000\.$"
    ):
        find_bento(repository, BRANCHES, "gemma2:9b")


@needs_git
@pytest.mark.parametrize("text", ["", ":", ":1b", "llama3.2:1b:x", "LLAMA3.2:1b", "../llama3.2"])
def test_what_is_no_name_of_a_bento(repository: ModelRepository, text: str) -> None:
    with pytest.raises(ConfigError, match="No bento matches"):
        find_bento(repository, BRANCHES, text)


@needs_git
def test_requirements_are_those_that_openllm_installs(repository: ModelRepository) -> None:
    assert find_bento(repository, BRANCHES, TAG).requirements == ("tiny-a", "tiny-b==1.0")
    assert find_bento(repository, BRANCHES, GEMMA).requirements == ("locked==1.0", "spaced >= 2")


@needs_git
def test_all_bentos_of_a_branch(repository: ModelRepository) -> None:
    assert tags(repository, "main") == {GEMMA, TAG, "qwen:14b-bbbb", "qwen:7b-aaaa"}


@needs_git
@pytest.mark.parametrize("body", [b"- a\n", b"a\n", b""], ids=["list", "word", "nothing"])
def test_a_file_that_describes_no_bento(tmp_path: Path, body: bytes) -> None:
    path = "bentoml/bentos/a/b/bento.yaml"
    commit(tmp_path / "models", {path: body})
    made = ModelRepository.of(tmp_path, Address.parse(str(tmp_path / "models")))
    made.pull(str(tmp_path / "models"), ["main"])
    with pytest.raises(ConfigError, match=path):
        find_bento(made, ["main"], "a:b")


@needs_git
def test_a_bento_without_requirements(tmp_path: Path) -> None:
    commit(tmp_path / "models", {f"{FOLDER}/bento.yaml": bento_yaml()})
    made = ModelRepository.of(tmp_path, Address.parse(str(tmp_path / "models")))
    made.pull(str(tmp_path / "models"), ["main"])
    with pytest.raises(
        ConfigError, match=f"{TAG} has no requirements file, so OpenLLM cannot start"
    ):
        find_bento(made, ["main"], TAG)


# What it needs


def bento(**changes: Any) -> Bento:
    return parsed(bento_yaml(**changes))


def parsed(body: bytes) -> Bento:
    return Bento("llama3.2", "1b-instruct-fa1d", "main", yaml.safe_load(body), ())


def test_a_model_is_pinned_with_its_own_filters() -> None:
    (spec,) = bento().specs()
    assert (str(spec.repo), spec.revision) == (MODEL_ID, COMMIT)
    assert (spec.include, spec.exclude) == ((), ("*.pth", "original/**/*"))


def test_models_of_the_bento_and_of_its_services_once_each() -> None:
    told = yaml.safe_load(bento_yaml())
    told["models"] = [
        {"registry": "huggingface", "metadata": {"model_id": "a/b"}},
        *told["services"][0]["models"],
    ]
    told["services"] += [{"name": "x"}, {"name": "y", "models": None}, "z"]
    specs = Bento("a", "b", "main", told, ()).specs()
    assert [str(spec) for spec in specs] == ["a/b@main", f"{MODEL_ID}@{COMMIT}"]


def test_a_bento_without_models_needs_none() -> None:
    bentos: list[dict[str, Any]] = [
        {},
        {"models": None, "services": 5},
        {"models": [], "services": [{}]},
    ]
    for told in bentos:
        assert Bento("a", "b", "main", told, ()).specs() == []


@pytest.mark.parametrize("registry", ["bentocloud", "s3", "null"])
def test_another_registry_is_refused(registry: str) -> None:
    with pytest.raises(ConfigError, match=rf"{TAG} uses a model from .*from Hugging Face only"):
        bento(registry=registry).specs()


@pytest.mark.parametrize(
    "metadata",
    [None, [], "x", {}, {"model_id": 5}, {"model_id": "../x"}, {"model_id": "a/b/c"},
     {"model_id": "a/b", "include": 5}, {"model_id": "a/b", "include": {"a": 1}},
     {"model_id": "a/b", "exclude": [5]}, {"model_id": "a/b", "revision": ["x"]},
     {"model_id": "a/b", "revision": 5}, {"model_id": "a/b", "revision": "../x"},
     {"model_id": {"a": 1}}, {"model_id": ["a/b"]}],
)  # fmt: skip
def test_a_model_that_is_named_in_an_unknown_way(metadata: object) -> None:
    told = {"models": [{"registry": "huggingface", "metadata": metadata}]}
    with pytest.raises(ConfigError, match="a:b has a model whose model_id"):
        Bento("a", "b", "main", told, ()).specs()


@pytest.mark.parametrize("model", ["llama:1", None, 5])
def test_a_model_that_is_no_table(model: object) -> None:
    """A tag alone is a model of BentoML's own store."""
    with pytest.raises(ConfigError, match="from Hugging Face only"):
        Bento("a", "b", "main", {"models": [model]}, ()).specs()


def test_the_python_of_a_bento() -> None:
    assert bento(python="3.12").python == "3.12"
    bentos: list[dict[str, Any]] = [
        {},
        {"image": None},
        {"image": {}},
        {"image": {"python_version": ""}},
    ]
    for told in bentos:
        with pytest.raises(ConfigError, match=r"a:b has no image\.python_version"):
            assert Bento("a", "b", "main", told, ()).python


def test_requirements_mean_what_they_meant_a_week_after_it_was_made() -> None:
    assert bento().published_before == datetime(2025, 5, 8, 0, 29, 14, tzinfo=UTC)
    assert bento(created="2025-05-01T00:29:14").published_before == bento().published_before
    assert bento(created="yesterday").published_before is None
    assert Bento("a", "b", "main", {}, ()).published_before is None


@pytest.mark.parametrize(
    ("text", "aliases"),
    [("1b,1b-instruct", ["1b", "1b-instruct"]), ("11", ["11"]), ("' a , b,'", ["a", "b"]),
     ("null", []), ("''", [])],
)  # fmt: skip
def test_the_aliases_of_a_bento(text: str, aliases: list[str]) -> None:
    assert bento(aliases=text).aliases == aliases


def test_a_bento_without_labels_has_no_alias() -> None:
    for told in ({}, {"labels": None}, {"labels": "x"}):
        assert Bento("a", "b", "main", told, ()).aliases == []


# What a pull leaves for a check


TINY = WantedWheel("tiny_a-1.0-py3-none-any.whl", 900, 64 * "a", "tiny-a==1.0")
REPOSITORY = "github.com/bentoml/openllm-models"


def closure(**changes: Any) -> Closure:
    model = PinnedModel(Repo.parse(MODEL_ID), COMMIT, {"config.json": 2})
    usual: dict[str, Any] = {
        "repository": REPOSITORY, "tag": TAG, "digest": 64 * "d", "platform": Platform("3.11"),
        "models": (model,), "wheels": (TINY,),
    }  # fmt: skip
    return Closure(**(usual | changes))


def test_a_closure_is_read_as_it_was_written(tmp_path: Path) -> None:
    arm = closure(platform=Platform("3.12", "2.34", "aarch64"), models=(), wheels=())
    other, gemma = closure(repository="site.lan/a/b"), closure(tag=GEMMA)
    for one in (closure(), arm, other, gemma):
        one.write(tmp_path)
    assert Closure.read_all(tmp_path, REPOSITORY) == [gemma, arm, closure()]
    assert Closure.read_all(tmp_path, REPOSITORY, [TAG]) == [arm, closure()]
    assert Closure.read_all(tmp_path, "site.lan/a/b") == [other]
    name = "bentoml--openllm-models__llama3.2__1b-instruct-fa1d__x86_64-manylinux_2_28.txt"
    assert (tmp_path / "openllm" / name).read_text() == (f"tiny-a==1.0 --hash=sha256:{64 * 'a'}\n")


def test_a_closure_that_is_written_again_takes_the_others_place(tmp_path: Path) -> None:
    closure().write(tmp_path)
    closure(wheels=()).write(tmp_path)
    assert Closure.read_all(tmp_path, REPOSITORY) == [closure(wheels=())]


def test_a_closure_that_is_forgotten(tmp_path: Path) -> None:
    closure().write(tmp_path)
    closure().remove(tmp_path)
    assert Closure.read_all(tmp_path, REPOSITORY) == []
    assert names(tmp_path / "openllm") == []


@pytest.mark.parametrize(
    "change",
    [b"", b"{", b"[]", b"5", b"{}", b'{"models": 5}', b'{"models": [5]}',
     b'{"platform": {"os": 1}}', b'{"wheels": [{"url": "x"}]}',
     b'{"models": [{"repo": "..", "revision": "", "files": {}}]}',
     b'{"models": [{"repo": 5, "revision": "", "files": {}}]}',
     b'{"models": [{"repo": "a/b", "revision": 5, "files": {}}]}',
     b'{"models": [{"repo": "a/b", "revision": "x", "files": {"a": "1"}}]}',
     b'{"wheels": [{"filename": "../x-1-py3-none-any.whl", "size": 1, "sha256": "%s", '
     b'"pin": "x==1"}]}' % (64 * b"a"),
     b'{"wheels": [{"filename": "x-1-py3-none-any.whl", "size": -1, "sha256": "%s", '
     b'"pin": "x==1"}]}' % (64 * b"a"),
     b'{"wheels": [{"filename": "x-1-py3-none-any.whl", "size": 1, "sha256": "0", "pin": "x==1"}]}',
     b'{"tag": "../../x:1"}', b'{"tag": "x"}', b'{"tag": 5}', b'{"repository": "a/../b"}',
     b'{"repository": 5}', b'{"platform": {"python": "3.11", "machine": "../x"}}',
     b'{"platform": {"python": 5}}', b'{"platform": {"python": "x"}}'],
)  # fmt: skip
def test_a_damaged_closure_is_left_out(tmp_path: Path, change: bytes) -> None:
    closure().write(tmp_path)
    (file,) = (tmp_path / "openllm").glob("*.json")
    damaged = change
    if change.startswith(b'{"'):
        damaged = json.dumps(json.loads(file.read_bytes()) | json.loads(change)).encode()
    file.with_name("a.json").write_bytes(damaged)
    assert Closure.read_all(tmp_path, REPOSITORY) == [closure()]


@pytest.mark.parametrize("form", ["fifo", "link", "long", "folder"])
def test_a_closure_that_is_no_file_of_the_folder_is_left_out(tmp_path: Path, form: str) -> None:
    closure().write(tmp_path)
    place, other = tmp_path / "openllm" / "a.json", tmp_path / "other"
    closure(tag=GEMMA).write(other)
    (kept,) = (other / "openllm").glob("*.json")
    if form == "fifo":
        os.mkfifo(place)
    elif form == "folder":
        place.mkdir()
    elif form == "link":
        place.symlink_to(kept)
    else:
        place.write_bytes(kept.read_bytes() + 65 * 1024 * 1024 * b" ")
    assert Closure.read_all(tmp_path, REPOSITORY) == [closure()]


def test_a_bento_that_was_changed_under_its_tag_is_another() -> None:
    before = bento()
    kept = closure(tag=before.tag, digest=before.digest)
    assert kept.is_of(bento())
    assert not kept.is_of(bento(revision="f" * 40))
    assert not kept.is_of(replace(before, requirements=("tiny-a",)))
    assert not kept.is_of(replace(before, version="other"))


# The commands


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Wheels that the tests' bentos want, as uv sees them."""
    folder = tmp_path_factory.mktemp("index")
    for name in ("tiny-a", "bentoml"):
        make_wheel(folder, name)
    with uv_set_to(folder, tmp_path_factory.mktemp("cache")):
        yield folder


class Site:
    """A connected host: an upstream of git, one of models, and one of wheels."""

    def __init__(self, filling: Filling, simulator: HubSimulator, folder: Path) -> None:
        self.filling = filling
        self.hub = simulator
        self.upstream = folder / "openllm-models"
        files = {"config.json": b"{}", "w.safetensors": b"w" * 9000, "a.pth": b"x",
                 "original/mp/params.json": b"{}"}  # fmt: skip
        revision = simulator.repo("meta-llama/Llama-3.2-1B-Instruct").commit(files)
        commit(self.upstream, bento_files(revision=revision))
        gone = bento_files("gone:1", model_id="a/b", aliases="x")
        cloud = bento_files("cloud:1", registry="bentocloud", aliases="x")
        windows = bento_files("windows:1", "not-here\n", revision=revision, aliases="x")
        commit(self.upstream, {**gone, **cloud, **windows})

    @property
    def data(self) -> Path:
        return self.filling.data

    def pull(self, *words: str, status: int = 0) -> str:
        where = ("--repository", str(self.upstream), "--branch", "main")
        words = ("openllm", "pull", *words, *where, "--upstream", self.filling.url)
        return self.filling.run(*words, status=status).output

    def run(self, *words: str, status: int = 0) -> str:
        return self.filling.run("openllm", *words, status=status).output


@pytest.fixture
def site(filling: Filling, simulator: HubSimulator, tmp_path: Path) -> Site:
    return Site(filling, simulator, tmp_path)


WHEELS = ["bentoml-1.0-py3-none-any.whl", "tiny_a-1.0-py3-none-any.whl"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_model_is_brought_with_all_that_its_start_needs(site: Site) -> None:
    said = site.pull("llama3.2:1b")
    assert f"{REPOSITORY} main: 3 bentos rewritten to use HF_ENDPOINT" in said
    assert f"{TAG}: pulled 1 model, 2 wheels for Python 3.11 on x86_64 with glibc 2.28" in said
    shown = site.filling.shown(repo="meta-llama/Llama-3.2-1B-Instruct", revision="HEAD")
    assert set(shown) == {"config.json", "w.safetensors"}
    assert names(site.data / "wheels") == WHEELS
    assert site.run("check", "llama3.2:1b") == (
        f"{TAG} can start on Python 3.11 on x86_64 with glibc 2.28.\n"
    )
    before, count = names(site.data / "openllm"), site.hub.count("resolve")
    site.pull("llama3.2:1b")
    assert (names(site.data / "openllm"), site.hub.count("resolve")) == (before, count)


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_dry_run_shows_the_closure_and_brings_nothing_of_it(site: Site) -> None:
    said = site.pull("llama3.2", "--dry-run", "--machine", "aarch64")
    assert f"{TAG} (main) for Python 3.11 on aarch64" in said
    assert "9.0 kB, 9.0 kB to fetch" in said
    assert all(wheel in said for wheel in WHEELS)
    assert not names(site.data / "wheels")
    assert not names(site.data / "openllm")
    assert site.hub.count("resolve") == 0


@needs_git
def test_the_repository_alone(site: Site) -> None:
    said = site.pull("--json")
    assert [json.loads(line) for line in said.splitlines()]
    assert names(site.data / "git" / "github.com" / "bentoml") == ["openllm-models.git"]


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("model", "told"),
    [("nope", "The available bentos are: cloud, gone, llama3.2, windows"),
     ("cloud", "uses a model from the registry 'bentocloud'"), ("windows", "not-here")],
)  # fmt: skip
def test_a_model_that_cannot_be_brought(site: Site, model: str, told: str) -> None:
    assert told in site.pull(model, status=1)
    assert not names(site.data / "openllm")


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_model_whose_hub_repository_is_gone(site: Site) -> None:
    said = site.pull("gone", "llama3.2", status=1)
    assert "a/b" in said
    assert "cannot start: a/b is not in this mirror" in site.run("check", "gone", status=1)
    assert "can start" in site.run("check", "llama3.2")


@needs_git
def test_a_branch_that_upstream_does_not_have(site: Site) -> None:
    assert "has no branch dev. Its branches are: main." in site.pull("--branch", "dev", status=1)


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_check_names_the_first_thing_that_is_missing(site: Site) -> None:
    site.pull()
    said = site.run("check", "llama3.2:1b", status=1)
    assert f"llama3.2:1b cannot start: the bento {TAG} was not pulled. On a host " in said
    assert "run: hubmirror openllm pull llama3.2:1b" in said
    site.pull("llama3.2:1b")
    (constraints,) = (site.data / "openllm").glob("*.txt")
    constraints.unlink()
    assert f"openllm/{constraints.name} is missing" in site.run("check", "llama3.2", status=1)
    wheel = site.data / "wheels" / WHEELS[0]
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    said = site.run("check", "llama3.2", status=1)
    assert f"the wheel {WHEELS[0]} is missing or has changed since it was pulled" in said
    site.filling.run("rm", MODEL_ID)
    assert f"{MODEL_ID} is not in this mirror" in site.run("check", "llama3.2", status=1)
    git(site.data / "git/github.com/bentoml/openllm-models.git", "branch", "-D", "main")
    assert "No bento matches llama3.2" in site.run("check", "llama3.2", status=1)


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_pull_mends_what_a_check_finds(site: Site) -> None:
    site.pull("llama3.2:1b")
    (site.data / "wheels" / WHEELS[0]).write_bytes(b"PK")
    (site.data / "wheels" / WHEELS[1]).unlink()
    (constraints,) = (site.data / "openllm").glob("*.txt")
    constraints.unlink()
    site.filling.run("rm", MODEL_ID)
    site.pull("llama3.2:1b")
    assert "can start" in site.run("check", "llama3.2:1b")


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_check_knows_what_a_pull_left_out(site: Site) -> None:
    site.pull("llama3.2:1b")
    site.filling.run("rm", MODEL_ID)
    revision = site.hub.repo("meta-llama/Llama-3.2-1B-Instruct").refs["main"]
    pulled = f"{MODEL_ID}@{revision}"
    site.filling.run("pull", pulled, "--include", "config.json")
    said = site.run("check", "llama3.2", status=1)
    assert f"w.safetensors of {MODEL_ID} at {revision[:12]} is missing" in said
    site.filling.run("pull", pulled, "--exclude", "*.pth", "--exclude", "original/*")
    assert "can start" in site.run("check", "llama3.2")


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_model_means_what_it_means_today(site: Site) -> None:
    """Upstream gives the alias to another version, as it does with each change."""
    site.pull("llama3.2:1b")
    revision = site.hub.repo("meta-llama/Llama-3.2-1B-Instruct").refs["main"]
    git(site.upstream, "rm", "-r", "--quiet", FOLDER)
    commit(site.upstream, bento_files("llama3.2:1b-instruct-new", revision=revision))
    site.pull()
    assert names(site.data / "openllm") == []
    said = site.run("check", "llama3.2:1b", status=1)
    assert "the bento llama3.2:1b-instruct-new was not pulled" in said
    site.pull("llama3.2:1b")
    assert "llama3.2:1b-instruct-new can start" in site.run("check", "llama3.2:1b")
    changed = bento_files("llama3.2:1b-instruct-new", "bentoml\n", revision=revision)
    commit(site.upstream, changed)
    site.pull()
    said = site.run("check", "llama3.2:1b", status=1)
    assert "llama3.2:1b-instruct-new has changed since it was pulled" in said
    assert said in site.run("env", URL, "llama3.2:1b", status=1)


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_model_of_nightly(site: Site) -> None:
    revision = site.hub.repo("meta-llama/Llama-3.2-1B-Instruct").refs["main"]
    commit(site.upstream, bento_files("phi:4-dddd", revision=revision, aliases="4"), "nightly")
    site.pull("phi", "--branch", "nightly")
    said = site.run("check", "phi:4")
    assert "The bento is on the branch nightly: openllm serve phi:4 --repo nightly" in said


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_model_that_fails_stops_no_other(site: Site) -> None:
    commit(site.upstream, {"bentoml/bentos/broken/1/bento.yaml": b"a: ["})
    said = site.pull("nope", "broken", "llama3.2:1b", status=1)
    assert (
        "broken/1/bento.yaml cannot be read: it is not valid YAML. Report it to the author"
        " of the bento. The bento stays" in said
    )
    assert "nope: No bento matches nope" in said
    assert "broken: bentoml/bentos/broken/1/bento.yaml cannot be read" in said
    assert "can start" in site.run("check", "llama3.2:1b")


def test_a_check_where_git_is_not_installed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.data / "git/github.com/bentoml/x.git").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "git is not installed" in site.run("check", "llama3.2", status=1)


@needs_git
@needs_uv
def test_a_wheel_of_another_model_is_not_overwritten(site: Site, index: Path) -> None:
    """A second model repository cannot change what the models of the first one start with."""
    site.pull("llama3.2:1b")
    (kept,) = (site.data / "openllm").glob("*.json")
    before = (site.data / "wheels" / WHEELS[1]).read_bytes()
    built = make_wheel(
        index.parent / f"evil-{site.data.parent.name}", "tiny-a", requires=["bentoml"]
    )
    words = ("llama3.2:1b", "--machine", "aarch64", "--find-links", str(built.parent))
    said = site.pull(*words, "--constraint", "tiny-a==1.0", status=1)
    assert f"The pull needs {built.name} with the sha256 {sha256(built)}" in said
    assert f"with the sha256 {hashlib.sha256(before).hexdigest()} (see openllm/{kept.name})" in said
    assert "Nothing was overwritten" in said
    assert (site.data / "wheels" / WHEELS[1]).read_bytes() == before
    assert "can start" in site.run("check", "llama3.2:1b")
    for name in (kept.name, kept.with_suffix(".txt").name):
        (site.data / "openllm" / name).unlink()
    (site.data / "wheels" / WHEELS[1]).unlink()
    site.pull(*words)
    assert (site.data / "wheels" / WHEELS[1]).read_bytes() == built.read_bytes()


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_wheel_that_the_operator_put_there_is_not_overwritten(site: Site) -> None:
    own = make_wheel(site.data / "wheels", "tiny-a", requires=["bentoml"])
    before = own.read_bytes()
    said = site.pull("llama3.2:1b", status=1)
    assert f"with the sha256 {sha256(own)}, which no pull downloaded" in said
    assert own.read_bytes() == before
    assert names(site.data / "openllm") == []


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_an_index_that_a_bento_names_is_trusted_by_an_option(site: Site, tmp_path: Path) -> None:
    revision = site.hub.repo("meta-llama/Llama-3.2-1B-Instruct").refs["main"]
    make_wheel(tmp_path / "other", "tiny-other")
    with run_index(tmp_path / "other") as url:
        lines = f"--extra-index-url {url}\ntiny-other\n"
        commit(site.upstream, bento_files("named:1", lines, revision=revision, aliases="x"))
        said = site.pull("named", status=1)
        assert (
            f"The requirements of the bento named:1 add an index: '--extra-index-url {url}'" in said
        )
        site.pull("named", "--trust-index", url)
    assert "tiny_other-1.0-py3-none-any.whl" in names(site.data / "wheels")
    assert "can start" in site.run("check", "named")


@needs_git
@needs_uv
@pytest.mark.usefixtures("index")
def test_a_host_refuses_a_wheel_that_is_another(site: Site, tmp_path: Path) -> None:
    """The constraints carry the sums, which uv compares."""
    site.pull("llama3.2:1b")

    def install(url: str) -> subprocess.CompletedProcess[str]:
        name = CONSTRAINTS.format("x86_64-manylinux_2_28")
        kept = {one: os.environ[one] for one in ("PATH", "HOME") if one in os.environ}
        command = [sys.executable, "-m", "uv", "pip", "install", "--no-cache", "--python",
                   sys.executable, "--target", str(tmp_path / "target"), "tiny-a"]  # fmt: skip
        told = {
            "UV_DEFAULT_INDEX": f"{url}/-/simple/",
            "UV_CONSTRAINT": f"{url}/-/constraints/{name}",
            "UV_NO_CONFIG": "1",
        }
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env=kept | told
        )

    with serving_openllm_files(site.data) as client:
        done = install(str(client.base_url).rstrip("/"))
        assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "target")
    make_wheel(site.data / "wheels", "tiny-a", requires=["bentoml"])
    with serving_openllm_files(site.data) as client:
        done = install(str(client.base_url).rstrip("/"))
    assert (done.returncode, "Hash mismatch" in done.stderr) == (1, True)


@needs_git
@pytest.mark.parametrize("name", ["a b/1", "a/\x1b[1m", f"a/{129 * '1'}", "-a/1", "a/.1"])
def test_names_that_are_no_part_of_a_path(tmp_path: Path, name: str) -> None:
    paths = (f"bentoml/bentos/{name}", FOLDER)
    commit(tmp_path / "models", {f"{path}/bento.yaml": bento_yaml() for path in paths})
    made = ModelRepository.of(tmp_path, Address.parse(str(tmp_path / "models")))
    made.pull(str(tmp_path / "models"), ["main"])
    assert tags(made, "main") == {TAG}
    with pytest.raises(ConfigError, match="No bento matches"):
        find_bento(made, ["main"], name.replace("/", ":"))


@needs_git
def test_aliases_that_would_write_to_a_terminal(tmp_path: Path) -> None:
    body = bento_yaml(aliases='"1b,\\e[1mred"')
    commit(tmp_path / "models", {f"{FOLDER}/bento.yaml": body})
    made = ModelRepository.of(tmp_path, Address.parse(str(tmp_path / "models")))
    made.pull(str(tmp_path / "models"), ["main"])
    with pytest.raises(ConfigError, match="matches llama3") as failure:
        find_bento(made, ["main"], "llama3.2:x")
    assert str(failure.value).isprintable()


# What a GPU host is to set

URL = "http://mirror.site:8400"


@pytest.fixture
def settled(site: Site, index: Path) -> Filling:
    """A data folder in which a pull was, for two platforms."""
    assert index
    site.pull("llama3.2:1b")
    site.pull("llama3.2:1b", "--machine", "aarch64", "--glibc", "2.34")
    return site.filling


X86 = ("llama3.2:1b", "--machine", "x86_64")
CONSTRAINTS = "bentoml--openllm-models__llama3.2__1b-instruct-fa1d__{}.txt"


def variables(filling: Filling, form: str, *words: str) -> list[str]:
    return filling.run("openllm", "env", *words, "--format", form).stdout.splitlines()


def told(filling: Filling, *words: str) -> dict[str, Any]:
    return dict(line.split("=", 1) for line in variables(filling, "dotenv", *words))


@needs_git
@needs_uv
def test_the_variables(settled: Filling) -> None:
    said = told(settled, f"{URL}/", *X86)
    assert said["HF_ENDPOINT"] == URL
    assert said["GIT_CONFIG_KEY_0"] == f"url.{URL}/-/git/github.com/.insteadOf"
    assert said["GIT_CONFIG_VALUE_0"] == "https://github.com/"
    assert said["UV_DEFAULT_INDEX"] == f"{URL}/-/simple/"
    name = CONSTRAINTS.format("x86_64-manylinux_2_28")
    assert said["UV_CONSTRAINT"] == f"{URL}/-/constraints/{name}"
    assert said["HF_TOKEN"]
    assert not any(name.endswith("CERT_FILE") for name in said)


@needs_git
@needs_uv
def test_a_platform_must_be_meant(settled: Filling) -> None:
    said = settled.run("openllm", "env", URL, "llama3.2:1b", status=1).output
    assert "glibc 2.34" in said
    assert "Choose one of them with --glibc and --machine" in said
    arm = told(settled, URL, "llama3.2:1b", "--glibc", "2.34")
    assert arm["UV_CONSTRAINT"].endswith(CONSTRAINTS.format("aarch64-manylinux_2_34"))
    said = settled.run("openllm", "env", URL, "llama3.2:1b", "--glibc", "2.17", status=1).output
    assert "was pulled for: " in said


@needs_git
@needs_uv
def test_every_form_says_the_same(settled: Filling) -> None:
    words = (URL, *X86, "--ca-file", "/etc/o'brien's $HOME/100%d \"x\".pem")
    wanted = variables(settled, "dotenv", *words)
    said = "\n".join([*variables(settled, "shell", *words), "env"])
    shell = subprocess.run(["sh", "-c", said], capture_output=True, text=True, check=True, env={})
    assert set(wanted) <= set(shell.stdout.splitlines())
    docker = [shlex.split(line) for line in variables(settled, "docker", *words)]
    assert docker == [["-e", one] for one in wanted]
    systemd = [line.replace("%%", "%") for line in variables(settled, "systemd", *words)]
    assert [shlex.split(line.removeprefix("Environment=")) for line in systemd] == [
        [one] for one in wanted
    ]


def test_without_a_model_nothing_is_constrained(filling: Filling) -> None:
    assert not any("UV_CONSTRAINT" in line for line in variables(filling, "shell", URL))


def test_a_host_whose_name_would_set_a_variable_is_left_out(filling: Filling) -> None:
    for host in ("git.example", "x\nLD_PRELOAD=x", "a b"):
        (filling.data / "git" / host / "o" / "n.git").mkdir(parents=True)
    said = variables(filling, "dotenv", URL)
    assert "GIT_CONFIG_COUNT=1" in said
    assert not any(line.startswith("LD_PRELOAD") for line in said)


def test_a_certificate_is_named_to_all(filling: Filling) -> None:
    said = told(filling, "https://mirror.site", "--ca-file", "/etc/ca.pem")
    named = {name for name, value in said.items() if value == "/etc/ca.pem"}
    assert named == {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE",
                     "NODE_EXTRA_CA_CERTS"}  # fmt: skip


def test_a_model_that_no_pull_brought(filling: Filling) -> None:
    said = filling.run("openllm", "env", URL, "gemma2", status=1).output
    assert "gemma2 cannot start: this mirror has no model repository. On a host" in said


@pytest.mark.parametrize("url", ["mirror.site:8400", "ftp://mirror.site", "https://"])
def test_an_address_that_is_none(filling: Filling, url: str) -> None:
    assert "MIRROR_URL" in filling.run("openllm", "env", url, status=1).output


@needs_git
@needs_uv
@pytest.mark.parametrize("token", ["", "s3cret/@:%"])
def test_git_and_uv_follow_the_variables(settled: Filling, tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token or "x")
    closing = ("--token-file", str(tmp_path / "token")) if token else ()
    with serving_openllm_files(settled.data, token) as client:
        said = told(settled, str(client.base_url), *X86, *closing)
        url = "https://github.com/bentoml/openllm-models"
        git(tmp_path, "clone", "--depth=1", "-b", "main", url, "clone", **said)
        compile_ = [sys.executable, "-m", "uv", "pip", "compile", "--no-header", "-q", "-"]
        environment = {**os.environ, **said, "UV_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(
            compile_, input="tiny-a\n", capture_output=True, text=True, check=False,
            env=environment, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tiny-a==1.0" in done.stdout
    assert said["HF_TOKEN"] == (token or "hubmirror")
    cloned = (tmp_path / "clone" / FOLDER / "bento.yaml").read_bytes()
    assert yaml.safe_load(cloned)["services"][0]["models"][0]["metadata"]["endpoint"] is None
    assert DAY.encode() in cloned
    assert os.environ.get("GIT_CONFIG_COUNT") is None
