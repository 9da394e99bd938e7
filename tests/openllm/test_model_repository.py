"""Model repositories: what a pull brings, and the copy in which bentos follow HF_ENDPOINT."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.cli import main
from mirror.core.errors import ConfigError, UpstreamError
from mirror.openllm.bento import tags
from mirror.openllm.model_repository import DEFAULT, Address, ModelRepository, without_endpoint
from tests.wheels import ENDPOINT, bento_files, bento_yaml, commit, git, needs_git

BENTO = "bentoml/bentos/llama3.2/1b-instruct-fa1d/bento.yaml"
REAL = bento_yaml().decode()


# The text of a bento.yaml


def changed(text: str) -> str:
    return without_endpoint("a/bento.yaml", text.encode()).decode()


def endpoints(text: str) -> list[object]:
    """What BentoML reads: the endpoint of each model of a bento."""
    told = yaml.safe_load(text)
    models = [*told.get("models", []), *(m for s in told["services"] for m in s.get("models", []))]
    return [model["metadata"].get("endpoint") for model in models]


def test_a_real_bento_keeps_all_but_its_endpoint() -> None:
    assert changed(REAL) == REAL.replace(f"endpoint: {ENDPOINT}", "endpoint: null")


def model(endpoint: str = ENDPOINT, registry: str = "huggingface", indent: str = "") -> str:
    lines = (
        "- tag: a:b", f"  registry: {registry}", "  metadata:", "    model_id: a/b",
        f"    endpoint: {endpoint}", "    revision: x",
    )  # fmt: skip
    return "".join(f"{indent}{line}\n" for line in lines)


def bento(models: str = "", services: str = "") -> str:
    top = f"models:\n{models}" if models else "models: []\n"
    inner = f"  models:\n{services}" if services else "  models: []\n"
    return f"name: a\n{top}services:\n- name: b\n{inner}envs: []\n"


def test_models_of_the_bento_and_of_its_services() -> None:
    text = bento(model() + model("https://hub.example"), model(indent="  ") + model(indent="  "))
    assert endpoints(changed(text)) == [None] * 4
    assert changed(text).count("null") == 4


def test_models_of_other_registries_are_left_alone() -> None:
    text = bento(model(registry="bentocloud") + model())
    assert changed(text) == text[::-1].replace(ENDPOINT[::-1], "llun", 1)[::-1]


@pytest.mark.parametrize("value", ["null", "~", "", "Null  # none"])
def test_what_names_no_endpoint_is_left_alone(value: str) -> None:
    text = bento(model(value))
    assert changed(text) == text


def test_a_change_of_what_was_changed_is_none() -> None:
    once = changed(REAL)
    assert changed(once) == once


@pytest.mark.parametrize("text", ["", "a", "- a\n", "models: 1\n", "models:\n- a\nservices: {}\n",
                                  "models:\n- registry: huggingface\n  metadata: 1\n",
                                  "services:\n- 1\n- models: {a: b}\n", "# nothing\n"])  # fmt: skip
def test_what_describes_no_model_is_left_alone(text: str) -> None:
    assert changed(text) == text


FORMS = {
    "quoted": f"'{ENDPOINT}'",
    "double": f'"{ENDPOINT}"  # the hub',
    "tag": f"!!str {ENDPOINT}",
    "anchor": f"&e {ENDPOINT}",
    "literal": f"|\n          {ENDPOINT}",
    "folded": f">-\n          {ENDPOINT}",
    "folded with a gap": f">+\n          {ENDPOINT}\n\n",
    "next line": f"\n          {ENDPOINT}",
    "two lines": "https://hub.example/a\n          /b",
}


@pytest.mark.parametrize("form", FORMS)
def test_an_endpoint_in_every_form_of_yaml(form: str) -> None:
    text = bento(model(FORMS[form]) + model(), model(FORMS[form], indent="  ").replace("&e", "&f"))
    told, wanted = yaml.safe_load(changed(text)), yaml.safe_load(text)
    for one in (*wanted["models"], *wanted["services"][0]["models"]):
        one["metadata"]["endpoint"] = None
    assert told == wanted


def test_a_bento_in_one_line() -> None:
    text = '{"models": [{"registry": "huggingface", "metadata": {"endpoint": "x", "a": 1}}]}'
    assert changed(text) == text.replace('"x"', "null")


@pytest.mark.parametrize(
    "text",
    [
        bento(model(f"&e {ENDPOINT}") + model("*e")),
        bento(model(f"&e {ENDPOINT}")) + "other: *e\n",
        f"models: &m\n{model()}services:\n- name: a\n  models: *m\n",
        f"models:\n- &m\n{model().replace('- tag', '  tag')}- *m\nservices: []\n",
        f"base: &b\n  endpoint: {ENDPOINT}\nmodels:\n- registry: huggingface\n  metadata:\n"
        "    <<: *b\n    model_id: a/b\nservices: []\n",
    ],
    ids=["value", "value elsewhere", "list", "model", "merge"],
)
def test_aliases_never_leave_an_endpoint_behind(text: str) -> None:
    """They are changed as one, or refused in words."""
    try:
        told = changed(text)
    except ConfigError as exc:
        assert "a/bento.yaml" in str(exc)  # noqa: PT017
    else:
        assert set(endpoints(told)) == {None}


def test_marks_and_line_ends_of_other_editors() -> None:
    for text in ("\ufeff" + REAL, REAL.replace("\n", "\r\n"), "# \u00fc\U0001f600\n" + REAL):
        assert changed(text) == text.replace(f"endpoint: {ENDPOINT}", "endpoint: null")


# An alphabet of its own spares hypothesis the table of all others.
ODD = "a\u00fc\u6f22\U0001f600 \t#:'\"&*{}[],|>-?!%@`\\~<=\ufeff\x07\x7f\xa0"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(ODD), max_size=4), st.sampled_from(["\n", "\r\n"]), st.integers(0, 3),
    st.integers(0, 3), st.booleans(),
)  # fmt: skip
def test_any_text_around_is_kept_byte_for_byte(
    lines: list[str],
    end: str,
    top: int,
    inner: int,
    mark: bool,  # noqa: FBT001
) -> None:
    comments = "".join(f"# {line}\n" for line in lines)
    text = f"{comments}{bento(model() * top, model(indent='  ') * inner)}{comments}"
    text = ("\ufeff" if mark else "") + text.replace("\n", end)
    try:
        told = changed(text)
    except ConfigError:
        with pytest.raises(yaml.YAMLError):  # a character that YAML does not have
            yaml.compose(text, yaml.CSafeLoader)
    else:
        assert told == text.replace(ENDPOINT, "null")


WORDS = st.text(ODD + "\n\r\x85\u2028", max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=9,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(WORDS, VALUES, max_size=4), st.sampled_from([None, True, False]),
       WORDS.filter(bool))  # fmt: skip
def test_any_yaml_around_reads_the_same(
    around: dict[str, object],
    flow: bool | None,  # noqa: FBT001
    endpoint: str,
) -> None:
    metadata = {**deepcopy(around), "endpoint": endpoint, "model_id": "a"}
    models = [{"more": deepcopy(around), "registry": "huggingface", "metadata": metadata}]
    body = {**around, "models": models, "services": [{"name": "a", "models": []}]}
    written = yaml.dump(body, default_flow_style=flow, allow_unicode=True)
    wanted = yaml.safe_load(written)  # it does not bring back every string
    wanted["models"][0]["metadata"]["endpoint"] = None
    assert yaml.safe_load(changed(written)) == wanted


@pytest.mark.parametrize(
    "body",
    [
        b"a: [",
        b"a: b\n\tc: d",
        b"\xff\xfe",
        b"a: \0",
        b"a: 1\n---\nb: 2\n",
        b"a: *b\n",
        b"a: !!bool x",
        b'a: !!int ""',
        b"a: !!timestamp x",
        b"? {a: b}\n: c",
    ],
    ids=["open", "tab", "no utf-8", "nul", "two", "alias", "bool", "int", "timestamp", "key"],
)
def test_broken_yaml_names_the_file(body: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^x/y/bento\.yaml cannot be read: it is not "):
        without_endpoint("x/y/bento.yaml", body)


def test_yaml_that_is_nested_without_end_ends_no_process() -> None:
    """In a process of its own: libyaml's loader recurses in C."""
    program = (
        "from mirror.core.errors import ConfigError\n"
        "from mirror.openllm.model_repository import without_endpoint\n"
        "for body in (b'[' * 200_000, b'{a: ' * 200_000):\n"
        "    try: without_endpoint('a/bento.yaml', body)\n"
        "    except ConfigError as exc: print(exc)\n"
    )
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, check=False, env=path)
    assert (done.returncode, done.stdout.count(b"a/bento.yaml")) == (0, 2)


# Addresses


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (DEFAULT, "github.com/bentoml/openllm-models"),
        ("https://github.com/Org/repo.git", "github.com/Org/repo"),
        ("https://user:word@git.example:8443/o/n/", "git.example/o/n"),
        ("http://git.example/o/n.x", "git.example/o/n.x"),
        ("ssh://git@git.example:22/o/n.git", "git.example/o/n"),
        ("git@git.example:o/n.git", "git.example/o/n"),
    ],
)
def test_where_a_repository_is_kept(text: str, place: str, tmp_path: Path) -> None:
    address = Address.parse(text)
    assert address.url == text
    assert ModelRepository.of(tmp_path, address).folder == tmp_path / "git" / f"{place}.git"


@pytest.mark.parametrize("name", ["models", "models.git"])
def test_a_folder_stands_for_a_repository_of_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for text in (name, f"./{name}/", str(tmp_path / name)):
        address = Address.parse(text)
        assert (address.host, address.owner, address.name) == ("github.com", "bentoml", "models")
        assert Path(address.url) == tmp_path / name


def test_a_folder_that_is_named_in_relation_to_this_one(tmp_path: Path) -> None:
    (tmp_path / "models" / "inner").mkdir(parents=True)
    os.chdir(tmp_path / "models" / "inner")
    assert Address.parse("..").name == "models"
    assert Address.parse(".").name == "inner"


@pytest.mark.parametrize(
    "text",
    ["nowhere", "https://github.com/one", "https://a/b/c/d", "https://", "--upload-pack=x",
     "https://../../x", "https://git.example/../x", "https://git.example/o/..", "file"],
)  # fmt: skip
def test_what_is_no_address(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="is neither the URL of a git repository nor a folder"):
        Address.parse(text)


# Pulling


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A model repository with both branches."""
    folder = tmp_path / "openllm-models"
    commit(folder, bento_files() | {"README.md": b"a\n"})
    commit(folder, bento_files("qwen2.5:7b-aaaa", model_id="qwen/qwen2.5"), "nightly")
    git(folder, "switch", "--quiet", "main")
    return folder


BRANCHES = ("main", "nightly")


def repository(data: Path, upstream: Path) -> ModelRepository:
    return ModelRepository.of(data, Address.parse(str(upstream)))


def pull(data: Path, upstream: Path, *branches: str) -> dict[str, int]:
    """How many bentos were changed on each branch."""
    copied = repository(data, upstream).pull(str(upstream), branches or BRANCHES)
    return {branch: one.changed for branch, one in copied.items()}


def refs(data: Path) -> str:
    return git(data / "git/github.com/bentoml/openllm-models.git", "show-ref")


@needs_git
def test_a_copy_follows_the_environment(upstream: Path, tmp_path: Path) -> None:
    assert pull(tmp_path, upstream) == {"main": 1, "nightly": 2}
    copy = repository(tmp_path, upstream)
    assert copy.branches() == ["main", "nightly"]
    assert copy.read("main", BENTO) == REAL.replace(ENDPOINT, "null").encode()
    assert copy.read("main", "README.md") == b"a\n"
    assert copy.read("upstream-main", BENTO) == REAL.encode()
    assert copy.read("main", "nope") is None
    with pytest.raises(ConfigError, match="is damaged, or its copy still runs"):
        copy.read("nope", BENTO)
    nightly = copy.files("nightly", "/bento.yaml")
    assert len(nightly) == 2
    assert not any(ENDPOINT.encode() in body for body in nightly.values())


@needs_git
def test_a_copy_is_one_commit_upon_upstreams_own(upstream: Path, tmp_path: Path) -> None:
    pull(tmp_path, upstream)
    bare = repository(tmp_path, upstream).folder
    for branch in BRANCHES:
        tip = git(upstream, "rev-parse", branch)
        assert git(bare, "rev-parse", f"{branch}^", f"upstream-{branch}").split() == [tip, tip]
        assert git(bare, "show", "-s", "--format=%cd %ad", "--date=raw", branch) == " ".join(
            2 * ["1700000000 +0200"]
        )
        assert tip in git(bare, "show", "-s", "--format=%b", branch)
    changed = git(bare, "diff", "--name-only", "main^", "main").split()
    assert changed == [BENTO]
    assert git(bare, "symbolic-ref", "HEAD") == "refs/heads/main"
    git(bare, "fsck", "--strict")


@needs_git
def test_ids_are_the_same_in_two_places(
    upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(tmp_path / "one", upstream)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Somebody")
    monkeypatch.setenv("GIT_AUTHOR_DATE", "1234567890 +0000")
    pull(tmp_path / "two", upstream, "nightly")
    pull(tmp_path / "two", upstream)
    assert refs(tmp_path / "one") == refs(tmp_path / "two")


@needs_git
def test_a_second_pull_brings_what_is_new(upstream: Path, tmp_path: Path) -> None:
    pull(tmp_path, upstream)
    before = refs(tmp_path)
    assert pull(tmp_path, upstream) == {"main": 1, "nightly": 2}
    assert refs(tmp_path) == before
    tip = commit(upstream, {"README.md": b"b\n", **bento_files("gemma:2b-bbbb")})
    assert pull(tmp_path, upstream)["main"] == 2
    bare = repository(tmp_path, upstream).folder
    assert git(bare, "rev-parse", "main^") == tip
    git(bare, "merge-base", "--is-ancestor", "main^^", "main")


@needs_git
def test_upstream_may_go_back(upstream: Path, tmp_path: Path) -> None:
    first = git(upstream, "rev-parse", "main")
    commit(upstream, {"README.md": b"b\n"})
    pull(tmp_path, upstream)
    git(upstream, "reset", "--quiet", "--hard", first)
    pull(tmp_path, upstream)
    assert repository(tmp_path, upstream).read("main", "README.md") == b"a\n"


@needs_git
def test_a_branch_in_which_nothing_changes_is_upstreams_own(tmp_path: Path) -> None:
    tip = commit(tmp_path / "plain", {"README.md": b"a\n", **bento_files(endpoint="null")})
    assert pull(tmp_path, tmp_path / "plain", "main") == {"main": 0}
    assert git(repository(tmp_path, tmp_path / "plain").folder, "rev-parse", "main") == tip


@needs_git
def test_a_bare_repository_and_one_branch(upstream: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(upstream), "bare.git")
    assert pull(tmp_path, tmp_path / "bare.git", "nightly") == {"nightly": 2}
    bare = tmp_path / "git/github.com/bentoml/bare.git"
    assert git(bare, "symbolic-ref", "HEAD") == "refs/heads/nightly"


@needs_git
def test_names_that_are_hard_to_write(upstream: Path, tmp_path: Path) -> None:
    folder = 'bentoml/bentos/a "b"\\c\n\u00fc\U0001f600/1'
    commit(upstream, {f"{folder}/bento.yaml": REAL.encode()})
    assert pull(tmp_path, upstream, "main") == {"main": 2}
    found = repository(tmp_path, upstream).read("main", f"{folder}/bento.yaml")
    assert found == REAL.replace(ENDPOINT, "null").encode()


@needs_git
def test_a_name_that_is_not_unicode(upstream: Path, tmp_path: Path) -> None:
    commit(upstream, {os.fsdecode(b"bentoml/bentos/\xff/bento.yaml"): REAL.encode()})
    assert pull(tmp_path, upstream, "main") == {"main": 2}


@needs_git
def test_modes_of_files_are_kept(upstream: Path, tmp_path: Path) -> None:
    (upstream / BENTO).chmod(0o755)
    (upstream / "link").mkdir()
    (upstream / "link" / "bento.yaml").symlink_to("../README.md")
    commit(upstream, {})
    pull(tmp_path, upstream, "main")
    listed = git(repository(tmp_path, upstream).folder, "ls-tree", "-r", "main")
    modes = {line.split("\t")[1]: line.split()[0] for line in listed.splitlines()}
    assert (modes[BENTO], modes["link/bento.yaml"]) == ("100755", "120000")


@needs_git
def test_settings_of_the_user_do_no_harm(
    upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = "[commit]\ngpgsign = true\n[core]\nautocrlf = true\n[transfer]\nfsckObjects = true\n"
    config += "[fetch]\nprune = true\n[init]\ndefaultBranch = x\ntemplateDir = /nowhere\n"
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    pull(tmp_path / "one", upstream)
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    pull(tmp_path / "two", upstream)
    assert refs(tmp_path / "one") == refs(tmp_path / "two")


# What goes wrong


@needs_git
def test_a_branch_that_is_missing_is_told_with_those_that_are_there(
    upstream: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UpstreamError, match=r"has no branch dev\. Its branches are: main, nightly\."
    ):
        pull(tmp_path, upstream, "main", "dev")
    assert repository(tmp_path, upstream).branches() == []


@needs_git
def test_a_repository_without_any_branch(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "empty")
    with pytest.raises(UpstreamError, match=r"has no branch main\. Its branches are: none\."):
        pull(tmp_path, tmp_path / "empty", "main")


@needs_git
def test_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UpstreamError, match="does not appear to be a git repository"):
        pull(tmp_path, tmp_path / "folder", "main")


@needs_git
def test_a_repository_of_another_user(upstream: Path, tmp_path: Path) -> None:
    """Git refuses it, or reads it; what it says is told."""
    if os.geteuid():
        pytest.skip("only root can give a folder to another user")
    for path in (upstream, *upstream.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    try:
        assert pull(tmp_path, upstream, "main") == {"main": 1}
    except UpstreamError as exc:
        assert "dubious ownership" in str(exc)  # noqa: PT017


@needs_git
def test_a_host_that_does_not_answer(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/o/n"
    with pytest.raises(UpstreamError, match=r"git cannot read http.*connect"):
        ModelRepository.of(tmp_path, Address.parse(url)).pull(url, ["main"])


@needs_git
def test_a_broken_bento_stays_as_it_is_and_stops_no_other(upstream: Path, tmp_path: Path) -> None:
    commit(upstream, {"bentoml/bentos/a/b/bento.yaml": b"a: ["})
    copied = repository(tmp_path, upstream).pull(str(upstream), ["main"])["main"]
    assert copied.changed == 1
    assert copied.broken == [
        "bentoml/bentos/a/b/bento.yaml cannot be read: it is not valid YAML. Report it to "
        "the author of the bento."
    ]
    copy = repository(tmp_path, upstream)
    assert copy.read("main", "bentoml/bentos/a/b/bento.yaml") == b"a: ["
    assert copy.read("main", BENTO) == REAL.replace(ENDPOINT, "null").encode()


@needs_git
def test_a_pull_that_was_killed_is_done_again(upstream: Path, tmp_path: Path) -> None:
    """It left the folder of a repository that was never made whole, and a lock."""
    pull(tmp_path, upstream)
    wanted = refs(tmp_path)
    bare = repository(tmp_path, upstream).folder
    shutil.copytree(bare, bare.with_name(".openllm-models.git.0123abcd"))
    git(bare, "update-ref", "-d", "refs/heads/main")
    pull(tmp_path, upstream)
    assert refs(tmp_path) == wanted


@needs_git
def test_what_is_named_bento_yaml_and_is_no_file(upstream: Path, tmp_path: Path) -> None:
    """A submodule, a symbolic link, and a folder."""
    (upstream / "link").mkdir()
    (upstream / "link" / "bento.yaml").symlink_to("../README.md")
    commit(upstream, {"folder/bento.yaml/x": b"x"})
    line = f"160000,{40 * '1'},module/bento.yaml"
    git(upstream, "update-index", "--add", "--cacheinfo", line)
    git(upstream, "commit", "--quiet", "--message=x")
    assert pull(tmp_path, upstream, "main") == {"main": 1}
    assert set(repository(tmp_path, upstream).files("main", "/bento.yaml")) == {BENTO}


@needs_git
@pytest.mark.parametrize(
    ("body", "told"),
    [(b"a: " + bytes(1024 * 1024).replace(b"\0", b"x"), "is longer than 1.0 MB"),
     (b"a: " + 500_000 * b"1:" + b"1", "a number of"), (300 * b"[" + 300 * b"]", "64 levels")],
    ids=["long", "number", "deep"],
)  # fmt: skip
def test_a_bento_that_costs_too_much_stays_as_it_is(
    upstream: Path, tmp_path: Path, body: bytes, told: str
) -> None:
    commit(upstream, {"bentoml/bentos/a/b/bento.yaml": body})
    copied = repository(tmp_path, upstream).pull(str(upstream), ["main"])["main"]
    assert (copied.changed, told in copied.broken[0]) == (1, True)
    assert copied.broken[0].startswith("bentoml/bentos/a/b/bento.yaml ")
    assert repository(tmp_path, upstream).read("main", "bentoml/bentos/a/b/bento.yaml") == body


# A repository that came from elsewhere


MARK = "mark"


def hostile(bare: Path, mark: Path) -> None:
    """Have a repository run a program wherever git lets one, which makes a file."""
    (bare / "config").write_text(
        "[core]\n\trepositoryformatversion = 1\n\tbare = true\n"
        f"\tsshCommand = touch {mark}\n\tfsmonitor = touch {mark}\n"
        f"\talternateRefsCommand = touch {mark}\n\tpager = touch {mark}\n"
        f"\thooksPath = {bare}/hooks\n"
        '[protocol "ext"]\n\tallow = always\n[extensions]\n\tworktreeConfig = true\n'
        f'[url "ext::touch {mark} "]\n\tinsteadOf = /\n\tinsteadOf = http\n'
        f"[uploadpack]\n\tpackObjectsHook = touch {mark}\n"
    )
    shutil.copy(bare / "config", bare / "config.worktree")
    (bare / "hooks").mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-checkout", "pre-auto-gc", "update"):
        (bare / "hooks" / name).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (bare / "hooks" / name).chmod(0o755)


@needs_git
def test_settings_and_hooks_of_a_repository_are_not_obeyed(upstream: Path, tmp_path: Path) -> None:
    pull(tmp_path, upstream)
    made = repository(tmp_path, upstream)
    hostile(made.folder, tmp_path / MARK)
    assert made.branches()[0] == "main"
    assert set(made.files("main", "/bento.yaml")) == {BENTO}
    new = commit(upstream, {"README.md": b"new\n"})
    pull(tmp_path, upstream)
    assert f"{new} refs/heads/upstream-main" in refs(tmp_path)
    assert not (tmp_path / MARK).exists()
    left = {path.name for path in made.folder.iterdir()}
    assert left - {"packed-refs"} == {"HEAD", "objects", "refs"}


@needs_git
@pytest.mark.parametrize("name", ["config", "commondir", "config.worktree", "hooks", "HEAD"])
def test_a_fifo_holds_nothing_up(upstream: Path, tmp_path: Path, name: str) -> None:
    pull(tmp_path, upstream)
    wanted, made = refs(tmp_path), repository(tmp_path, upstream)
    (made.folder / name).unlink(missing_ok=True)
    os.mkfifo(made.folder / name)
    if name == "HEAD":
        with pytest.raises(ConfigError, match="its HEAD is not a regular file"):
            made.branches()
    else:
        assert set(made.branches()) == {"main", "nightly"}
    pull(tmp_path, upstream)
    assert refs(tmp_path) == wanted


@needs_git
def test_an_include_of_a_device_is_not_read(upstream: Path, tmp_path: Path) -> None:
    pull(tmp_path, upstream)
    made = repository(tmp_path, upstream)
    (made.folder / "config").write_text("[include]\n\tpath = /dev/zero\n")
    assert set(made.branches()) == {"main", "nightly"}


def _alternates(bare: Path, other: Path) -> None:
    (bare / "objects" / "info").mkdir(exist_ok=True)
    (bare / "objects" / "info" / "alternates").write_text(f"{other}/objects\n")


def _linked(name: str) -> Callable[[Path, Path], None]:
    def link(bare: Path, other: Path) -> None:
        (bare / name).rename(other / "taken")
        (bare / name).symlink_to(other / "taken")

    return link


def _linked_file(bare: Path, other: Path) -> None:
    (bare / "objects" / "pack" / "x.pack").symlink_to(other / "secret")


def _fifo(bare: Path, _: Path) -> None:
    os.mkfifo(bare / "refs" / "heads" / "fifo")


def _head(bare: Path, _: Path) -> None:
    (bare / "HEAD").write_bytes(b"ref: refs/heads/../../x")


UNSAFE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "alternates": (_alternates, "it reads objects of another repository"),
    "objects": (_linked("objects"), "objects is not a folder"),
    "refs": (_linked("refs"), "refs is not a folder"),
    "a pack": (_linked_file, "x.pack' is not a regular file"),
    "a ref": (_fifo, "fifo' is not a regular file"),
    "HEAD": (_head, "its HEAD is neither"),
}


@needs_git
@pytest.mark.parametrize("form", UNSAFE)
def test_a_repository_that_reaches_elsewhere_is_refused(
    upstream: Path, tmp_path: Path, form: str
) -> None:
    pull(tmp_path, upstream)
    made, (change, told) = repository(tmp_path, upstream), UNSAFE[form]
    (tmp_path / "other").mkdir()
    change(made.folder, tmp_path / "other")
    for read in (made.branches, lambda: made.files("main", "x"), lambda: made.read("main", "x")):
        with pytest.raises(ConfigError, match=rf"{told}.*Remove it, and fetch it again"):
            read()


@needs_git
def test_a_pull_forgets_where_a_repository_took_objects_from(
    upstream: Path, tmp_path: Path
) -> None:
    pull(tmp_path, upstream)
    wanted, made = refs(tmp_path), repository(tmp_path, upstream)
    _alternates(made.folder, tmp_path / "other")
    pull(tmp_path, upstream)
    assert refs(tmp_path) == wanted
    assert not (made.folder / "objects" / "info" / "alternates").exists()


@needs_git
@pytest.mark.parametrize("name", ["", "objects", "refs"])
def test_a_pull_changes_nothing_outside_of_the_folder(
    upstream: Path, tmp_path: Path, name: str
) -> None:
    made, other = repository(tmp_path, upstream), tmp_path / "other"
    pull(tmp_path, upstream)
    made.folder.rename(other)
    (other / "config").write_bytes(b"")
    if name:
        made.folder.mkdir()
        shutil.copy(other / "HEAD", made.folder / "HEAD")
    (made.folder / name).symlink_to(other / name)
    with pytest.raises(ConfigError, match="leads out of the folder git/"):
        pull(tmp_path, upstream)
    assert (other / "config").exists()


@needs_git
def test_the_folder_of_repositories_may_be_a_link(upstream: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "git").symlink_to(tmp_path / "elsewhere")
    assert pull(tmp_path, upstream) == {"main": 1, "nightly": 2}
    assert set(repository(tmp_path, upstream).branches()) == {"main", "nightly"}


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _halved(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


HALF_ARRIVED: dict[str, Callable[[Path], None]] = {
    "an empty folder": _emptied,
    "no objects": lambda folder: _emptied(folder / "objects"),
    "no folder objects": lambda folder: shutil.rmtree(folder / "objects"),
    "no refs": lambda folder: _emptied(folder / "refs"),
    "half of each ref": lambda folder: _halved(folder / "refs"),
    "half of HEAD": lambda folder: os.truncate(folder / "HEAD", 8),
    "half of each object": lambda folder: _halved(folder / "objects"),
}


@needs_git
@pytest.mark.parametrize("damage", HALF_ARRIVED)
def test_a_repository_that_has_half_arrived(upstream: Path, tmp_path: Path, damage: str) -> None:
    """It is named in one line, and the models of other repositories are found."""
    pull(tmp_path, upstream)
    good = repository(tmp_path, upstream).folder
    half = tmp_path / "git" / "github.com" / "a" / "half.git"
    shutil.copytree(good, half)
    HALF_ARRIVED[damage](half)
    name = next(iter(tags(ModelRepository(good), "main")))
    at = ("--data", str(tmp_path))
    url = "http://mirror.site:8400"
    said = CliRunner().invoke(main, ["openllm", "env", url, *at])
    assert (said.exit_code, "HF_ENDPOINT" in said.output) == (0, True)
    for words in (["openllm", "check", name], ["openllm", "env", url, name]):
        said = CliRunner().invoke(main, [*words, *at])
        assert isinstance(said.exception, SystemExit), said.exception
        assert f"the bento {name} was not pulled" in said.output.replace("\n", " ")

    shutil.rmtree(good)
    for words in (["openllm", "check", name], ["openllm", "env", url, name]):
        said = CliRunner().invoke(main, [*words, *at])
        assert isinstance(said.exception, SystemExit), said.exception
        assert "github.com/a/half" in said.output
        assert str(tmp_path) not in said.output


@needs_git
def test_what_lies_in_the_place_of_a_repository(upstream: Path, tmp_path: Path) -> None:
    made = repository(tmp_path, upstream)
    made.folder.parent.mkdir(parents=True)
    made.folder.write_bytes(b"x")
    with pytest.raises(ConfigError, match="openllm-models cannot be created in git/"):
        pull(tmp_path, upstream)


@needs_git
def test_variables_that_lead_to_another_repository_are_dropped(
    upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE"):
        monkeypatch.setenv(name, str(tmp_path / "other"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{upstream}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://models.example/o/n")
    made = ModelRepository.of(tmp_path, Address.parse("https://models.example/o/n"))
    assert set(made.pull("https://models.example/o/n", ["main"])) == {"main"}
    assert not (tmp_path / "other").exists()


@needs_git
def test_a_url_that_is_a_command_is_refused(
    upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.ext.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    with pytest.raises(UpstreamError, match="transport 'ext' not allowed"):
        repository(tmp_path, upstream).pull(f"ext::touch {tmp_path / MARK}", ["main"])
    assert not (tmp_path / MARK).exists()


def test_git_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="git is not installed"):
        pull(tmp_path, tmp_path / "folder", "main")
    with pytest.raises(ConfigError, match="git is not installed"):
        ModelRepository(tmp_path / "folder").read("main", "a")
