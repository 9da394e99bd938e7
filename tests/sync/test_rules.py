"""The rules of `[proxy]`, and `[[upstream]]`."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from mirror.config.file import File
from mirror.core.errors import RefusedByRuleError
from mirror.core.repo import Repo
from mirror.core.tree import RepoFile
from mirror.sync.rules import Rules
from mirror.web.errors import error_response
from tests.filling import FILES, MODEL, Filling
from tests.hub import EVER, Effect, HubSimulator, run_hub

SQUAD = "datasets/org/squad"
MANY = ["a/*", "b/*", "c/*", "d/*", "e/*", "f/*"]


def configure(folder: Path, text: str) -> None:
    (folder / "hubmirror.toml").write_text(text)


def problem(repo: str, **rules: Any) -> str:
    """Why a repository is refused; empty if it is not."""
    lists: dict[str, Any] = {name: tuple(value) for name, value in rules.items()}
    try:
        Rules(**lists).check_repo(Repo.parse(repo))
    except RefusedByRuleError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize(
    ("repo", "rules", "rule"),
    [
        ("org/model", {}, ""),
        ("org/model", {"deny_repos": ["evil/*", "org/*"]}, 'deny_repos = ["org/*"]'),
        ("ORG/model", {"deny_repos": ["org/M*"]}, 'deny_repos = ["org/M*"]'),
        ("org/model", {"allow_repos": ["org/*"]}, ""),
        ("org/model", {"allow_repos": ["org/"]}, ""),
        ("other/model", {"allow_repos": ["org/*", "a/b"]}, 'allow_repos = ["org/*", "a/b"]'),
        ("org/model", {"allow_repos": ["org/*"], "deny_repos": ["*-GGUF"]}, ""),
        ("org/m-gguf", {"allow_repos": ["*"], "deny_repos": ["*-GGUF"]}, 'deny_repos = ["*-GGUF"]'),
        ("datasets/org/d", {"deny_repos": ["org/*"]}, 'deny_repos = ["org/*"]'),
        ("datasets/org/d", {"deny_repos": ["datasets/*"]}, 'deny_repos = ["datasets/*"]'),
        ("datasets/org/d", {"deny_repos": ["datasets/"]}, 'deny_repos = ["datasets/"]'),
        ("org/d", {"deny_repos": ["datasets/*", "spaces/*"]}, ""),
        ("org/d", {"deny_repos": ["models/org/*"]}, 'deny_repos = ["models/org/*"]'),
        ("gpt2", {"deny_repos": ["*"]}, 'deny_repos = ["*"]'),
        ("spaces/org/s", {"deny_types": ["space"]}, 'deny_types = ["space"]'),
        ("spaces/org/s", {"allow_types": ["model"]}, 'allow_types = ["model"]'),
        ("org/s", {"allow_types": ["model"]}, ""),
        ("org/s", {"allow_repos": MANY}, '["a/*", "b/*", "c/*", "d/*", "e/*", …]'),
    ],
)
def test_a_rule_decides_about_repositories(repo: str, rules: dict[str, Any], rule: str) -> None:
    found = problem(repo, **rules)
    assert bool(found) == bool(rule)
    assert rule in found


@pytest.mark.parametrize(
    ("path", "rules", "rule"),
    [
        ("model.bin", {"deny_files": ("*.bin",)}, 'deny_files = ["*.bin"]'),
        ("deep/MODEL.Bin", {"deny_files": ("*.bin",)}, 'deny_files = ["*.bin"]'),
        ("original/a/b", {"deny_files": ("original/*",)}, 'deny_files = ["original/*"]'),
        ("original/a/b", {"deny_files": ("original/",)}, 'deny_files = ["original/"]'),
        ("a.json", {"allow_files": ("*.json",)}, ""),
        ("a.txt", {"allow_files": ("*.json",)}, 'allow_files = ["*.json"]'),
        ("a.json", {"max_file_size": 5_000_000}, ""),
        ("a.json", {"max_file_size": 4_999_999}, 'max_file_size = "5.0 MB"'),
    ],
)
def test_a_rule_decides_about_files(path: str, rules: dict[str, Any], rule: str) -> None:
    file = RepoFile(path, 5_000_000, "0" * 40)
    refused = Rules(**rules).refused(Repo.parse(MODEL), [file])
    assert bool(refused) == bool(rule)
    for text in map(str, refused.values()):
        assert f"{path} of {MODEL}" in text
        assert rule in text


def test_a_refusal_is_status_403_with_the_rule_and_no_path_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[proxy]\ndeny_repos = ["org/*"]')
    rules = Rules.of(File.read(tmp_path / "site.toml"))
    with pytest.raises(RefusedByRuleError) as raised:
        rules.check_repo(Repo.parse(MODEL))
    response = error_response(raised.value)
    assert response.status_code == 403
    assert 'the rule deny_repos = ["org/*"] in [proxy] of site.toml' in str(raised.value)
    assert str(tmp_path) not in bytes(response.body).decode()
    assert "org/*" in response.headers["x-error-message"]


@pytest.mark.parametrize("repo", [MODEL, "kernels/org/kernel"])
def test_a_refused_repository_is_not_asked_for(
    simulator: HubSimulator, filling: Filling, tmp_path: Path, repo: str
) -> None:
    configure(tmp_path, '[proxy]\ndeny_repos = ["org/*"]')
    assert 'deny_repos = ["org/*"]' in filling.run("pull", repo, status=1).output
    assert simulator.count("/org/") == 0


def test_a_new_name_of_a_repository_is_checked_too(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    simulator.repo(MODEL).info = {"id": "evil/model"}
    configure(tmp_path, '[proxy]\ndeny_repos = ["evil/*"]')
    assert "evil/model is refused" in filling.run("pull", MODEL, status=1).output
    assert simulator.count("/resolve/") == 0


def test_refused_files_are_left_out_and_recorded(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    configure(tmp_path, '[proxy]\ndeny_files = ["*.safetensors"]\nmax_file_size = "500 kB"')
    output = " ".join(filling.run("pull", MODEL).output.split())
    assert f"{MODEL}: 3 files left out by rules" in output
    assert 'deny_files = ["*.safetensors"]' in output
    large = {path for path, body in FILES.items() if len(body) > 500_000 or "safetensors" in path}
    assert filling.shown().keys() == FILES.keys() - large
    record = filling.record(simulator.repo(MODEL).refs["main"])
    assert record.left_out.keys() == large


def test_the_wanted_files_of_a_repository_are_refused(filling: Filling, tmp_path: Path) -> None:
    configure(tmp_path, '[proxy]\nallow_files = ["*.json"]')
    output = filling.run("pull", MODEL, "--include", "*.txt", status=1).output
    assert 'allow_files = ["*.json"]' in output
    assert not filling.folder().recorded_commits()


def test_a_repository_can_be_refused_for_one_file(filling: Filling, tmp_path: Path) -> None:
    configure(tmp_path, '[proxy]\ndeny_files = ["*.safetensors"]\nwhole_only = true')
    output = filling.run("pull", MODEL, status=1).output
    assert "model-00001.safetensors of org/model is refused" in output
    filling.run("pull", MODEL, "--exclude", "*.safetensors")


def test_a_file_that_was_pulled_before_its_rule_stays_and_is_not_fetched_again(
    simulator: HubSimulator, filling: Filling, tmp_path: Path
) -> None:
    filling.run("pull", MODEL)
    configure(tmp_path, '[proxy]\ndeny_files = ["*.safetensors"]')
    filling.run("pull", MODEL)
    assert filling.shown() == FILES
    file = filling.record(simulator.repo(MODEL).refs["main"]).files["model-00001.safetensors"]
    (filling.folder().blobs / file.etag).unlink()
    simulator.requests.clear()
    assert "is refused by the rule" in filling.run("pull", MODEL, status=1).output
    filling.run("verify", "--repair", "--upstream", filling.url, status=1)
    assert simulator.count("/resolve/") == 0


def test_needs_are_checked_too(simulator: HubSimulator, filling: Filling, tmp_path: Path) -> None:
    simulator.repo(MODEL).commit({"adapter_config.json": b'{"base_model_name_or_path": "evil/b"}'})
    simulator.repo("evil/b").commit({"config.json": b"{}"})
    configure(tmp_path, '[proxy]\ndeny_repos = ["evil/*"]')
    assert "evil/b is refused" in filling.run("pull", MODEL, "--with-needs", status=1).output
    assert simulator.count("evil/b") == 0


@pytest.fixture
def internal() -> HubSimulator:
    simulator = HubSimulator()
    simulator.repo("internal/model").commit({"config.json": b"{}"})
    simulator.repo("datasets/internal/data").commit({"a.csv": b"a\n"})
    return simulator


@pytest.fixture
def internal_url(internal: HubSimulator) -> Iterator[str]:
    with run_hub(internal) as url:
        yield url


def test_the_first_upstream_that_matches_is_asked(
    simulator: HubSimulator,
    internal: HubSimulator,
    filling: Filling,
    internal_url: str,
    tmp_path: Path,
) -> None:
    configure(
        tmp_path,
        f"""
        [[upstream]]
        match = ["none/*", "internal/*"]
        url = "{internal_url}"
        [[upstream]]
        match = ["*nal/*"]
        url = "http://127.0.0.1:9"
        """,
    )
    filling.run("pull", MODEL, "internal/model", "datasets/internal/data")
    assert filling.shown(repo="internal/model") == {"config.json": b"{}"}
    assert filling.shown(repo="datasets/internal/data") == {"a.csv": b"a\n"}
    assert filling.shown() == FILES
    assert simulator.count("internal") == internal.count("org/model") == 0
    commit = internal.repo("internal/model").refs["main"]
    assert filling.record(commit, "internal/model").upstream == internal_url


def seeing(tokens: set[str]) -> Effect:
    """The true answer; the token of its request is kept. git sends it as a password."""

    def effect(request: Any, answer: Response) -> Response:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_git = scheme == "Basic"
        tokens.add(base64.b64decode(given).decode().partition(":")[2] if is_git else given)
        return answer

    return effect


@pytest.mark.parametrize("token_file", ["", 'token_file = "token"'])
def test_each_upstream_gets_its_own_token_only(
    simulator: HubSimulator,
    internal: HubSimulator,
    filling: Filling,
    internal_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token_file: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_default")
    (tmp_path / "token").write_text("hf_internal\n")
    text = f'[[upstream]]\nmatch = ["internal/*"]\nurl = "{internal_url}"\n{token_file}'
    configure(tmp_path, text)
    default_tokens: set[str] = set()
    internal_tokens: set[str] = set()
    simulator.fail("", seeing(default_tokens), EVER)
    internal.fail("", seeing(internal_tokens), EVER)
    filling.run("pull", MODEL, "internal/model")
    assert default_tokens == {"hf_default"}
    assert internal_tokens == {"hf_internal" if token_file else ""}


def test_an_upstream_that_refuses_names_its_own_token(
    internal: HubSimulator, filling: Filling, internal_url: str, tmp_path: Path
) -> None:
    configure(tmp_path, f'[[upstream]]\nmatch = ["internal/*"]\nurl = "{internal_url}"')
    output = filling.run("pull", "internal/none", status=1).output
    assert "set the token_file of its [[upstream]]" in output
