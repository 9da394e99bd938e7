"""The origin of settings, and errors in the configuration."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from mirror.cli import main
from mirror.config.file import File
from mirror.config.settings import SETTINGS, refuse_unknown_variables
from mirror.config.specs import SourceSpec
from mirror.config.values import read_token
from mirror.core.errors import ConfigError, RevisionNotFoundError
from mirror.core.repo import Repo
from mirror.server.opened_sources import open_sources
from mirror.server.worker_config import WorkerConfig
from tests.folders import MODEL, OLDER, Content, make_classic, make_managed, make_plain
from tests.servers import run_command


def _file(folder: Path, text: str) -> File:
    path = folder / "hubmirror.toml"
    path.write_text(text)
    return File.read(path)


def test_a_file_holds_settings_and_sources(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        """
        [serve]
        port = 9000
        [[source]]
        kind = "hf-cache"
        path = "~/.cache/huggingface/hub"
        [[source]]
        kind = "folder"
        path = "/models/squad"
        repo_id = "rajpurkar/squad"
        repo_type = "dataset"
        """,
    )
    assert file.settings == {"port": 9000}
    assert file.sources == (
        SourceSpec("hf-cache", Path("~/.cache/huggingface/hub").expanduser()),
        SourceSpec("folder", Path("/models/squad"), Repo.parse("datasets/rajpurkar/squad")),
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]", "'server'"),
        ("[serve]\nprot = 1", "'prot'"),
        ("[[source]]\nkind = 'hf-cache'\npath = 'x'\nrepo = 'y'", "'repo'"),
        ("[[source]]\nkind = 'hf-cache'", "path"),
        ("[[source]]\nkind = 'cache'\npath = 'x'", "'cache'"),
        ("[[source]]\nkind = 'folder'\npath = 'x'", "needs a repo id"),
        ("[[source]]\nkind = 'folder'\npath = 'x'\nrepo_id = 'a--b'", "'a--b'"),
        ("[[source]]\nkind = 'folder'\npath = 'x'\nrepo_id = 'a/b'\nrepo_type = 'c'", "'c'"),
        ("[serve", "not TOML"),
        ("[[repo]]\nrepo_id = 'a/b'\ncommit_hash = 'main'", "commit_hash"),
        ("requests = '/-/simple/x/'", "requests"),
        ("proxy = 1", r"\[proxy\]"),
        ("[proxy]\ndeny = ['*']", "'deny'"),
        ("[proxy]\ndeny_files = '*.bin'", "deny_files"),
        ("[proxy]\nallow_types = ['models']", "'models'"),
        ("[proxy]\nmax_file_size = '5 apples'", "max_file_size"),
        ("[proxy]\nwhole_only = 1", "whole_only"),
        ("upstream = 'https://hub'", r"\[\[upstream\]\]"),
        ("[[upstream]]\nurl = 'https://hub'", "needs match"),
        ("[[upstream]]\nmatch = []\nurl = 'https://hub'", "needs match"),
        ("[[upstream]]\nmatch = ['a/*']", "and url"),
        ("[[upstream]]\nmatch = ['a/*']\nurl = 'https://hub'\ntoken = 'x'", "'token'"),
        ("[[upstream]]\nmatch = ['a/*']\nurl = 'https://hub'\ntoken_file = 1", "token_file"),
    ],
)
def test_what_a_file_may_not_hold_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        _file(tmp_path, text)


@pytest.mark.parametrize("text", ["models", "hf-cache:", "folder:/models/qwen", "disk:/x", ":x"])
def test_a_source_that_declares_nothing(text: str) -> None:
    with pytest.raises(ConfigError):
        SourceSpec.parse(text)


@pytest.mark.parametrize("text", ["hf-cache:/a=b", "folder:/a=b/c=org/name", "managed:/x"])
def test_a_source_in_one_line(text: str) -> None:
    assert str(SourceSpec.parse(text)) == text


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("PROT", "PORT"), ("TOKEN", "TOKEN_FILE"), ("TOKENFILE", "TOKEN_FILE"),
        ("SOURCES", "SOURCE"), ("DATA_FOLDER", "DATA"), ("PUBLICURL", "PUBLIC_URL"),
        ("DATA_SERVICE", "DATA"), ("TLS_PROT", "TLS_PORT"),
    ],
)  # fmt: skip
def test_a_misspelt_variable_is_refused_with_the_nearest_name(name: str, nearest: str) -> None:
    refuse_unknown_variables({"HUBMIRROR_PORT": "1", "HUBMIRROR_SOURCE": "x", "PATH": "y"})
    with pytest.raises(ConfigError, match=rf"^HUBMIRROR_{name} .* mean HUBMIRROR_{nearest}\?"):
        refuse_unknown_variables({f"HUBMIRROR_{name}": "1"})


def _service(name: str) -> dict[str, str]:
    """The variables that Kubernetes gives to each container beside a Service."""
    return {
        f"{name}_SERVICE_HOST": "10.96.7.7",
        f"{name}_SERVICE_PORT": "8400",
        f"{name}_SERVICE_PORT_HTTP": "8400",
        f"{name}_PORT": "tcp://10.96.7.7:8400",
        f"{name}_PORT_8400_TCP": "tcp://10.96.7.7:8400",
        f"{name}_PORT_8400_TCP_PROTO": "tcp",
        f"{name}_PORT_8400_TCP_PORT": "8400",
        f"{name}_PORT_8400_TCP_ADDR": "10.96.7.7",
    }


def test_variables_of_kubernetes_and_compose_are_ignored(tmp_path: Path) -> None:
    names = ("HUBMIRROR", "HUBMIRROR_TLS", "HUBMIRROR_DATA", "HUBMIRROR_TOKEN_FILE")
    foreign = {key: value for name in names for key, value in _service(name).items()}
    foreign["HUBMIRROR_IMAGE"] = "registry.lan/hubmirror:1"
    make_managed(tmp_path / "data" / "hub")
    under = ["env", *(f"{key}={value}" for key, value in foreign.items())]
    with run_command(tmp_path, "--workers", "1", under=under) as command:
        assert httpx2.get(f"{command.url}/api/models/Org/Model").status_code == 200


def test_a_port_of_a_service_is_not_our_port(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main,
        ["serve", "--host", "203.0.113.9"],
        env=_service("HUBMIRROR") | {"HUBMIRROR_DATA": str(tmp_path)},
    )
    assert "port 8400" in done.output
    wrong = CliRunner().invoke(main, ["serve"], env={"HUBMIRROR_PORT": "eighty"})
    assert "'eighty' is not a valid integer range" in wrong.output


def test_the_data_folder_is_asked_before_what_is_declared(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    make_plain(tmp_path / "plain")
    spec = SourceSpec("folder", tmp_path / "plain", MODEL)
    with_both = open_sources(tmp_path / "data", None, [spec])
    assert [source.label for source in with_both.sources.sources] == [
        f"managed:{tmp_path}/data/hub",
        str(spec),
        f"bento:{tmp_path}/data/bentoml",
    ]


def test_a_declaration_of_the_hub_folder_takes_its_place(tmp_path: Path) -> None:
    make_classic(tmp_path / "data" / "hub")
    spec = SourceSpec("hf-cache", tmp_path / "data" / "hub")
    place = open_sources(tmp_path / "data", None, [spec])
    assert [source.label for source in place.sources.sources][:-1] == [str(spec)]
    assert place.sources.snapshot(MODEL, "main").files


def test_the_first_source_answers_for_all_revisions(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    make_classic(tmp_path / "other", Content({"a": b"b"}, OLDER))
    place = open_sources(tmp_path / "data", None, [SourceSpec("hf-cache", tmp_path / "other")])
    with pytest.raises(RevisionNotFoundError):
        place.sources.snapshot(MODEL, OLDER)


def test_a_source_that_only_waits_does_not_answer(tmp_path: Path) -> None:
    make_classic(tmp_path / "data" / "hub")
    make_classic(tmp_path / "other", Content({"a": b"b"}, OLDER))
    place = open_sources(tmp_path / "data", None, [SourceSpec("hf-cache", tmp_path / "other")])
    assert place.sources.snapshot(MODEL, "main").commit_hash == OLDER


def test_state_goes_into_the_data_folder(tmp_path: Path) -> None:
    assert open_sources(tmp_path, None, []).state.folder == tmp_path / ".hubmirror"
    assert open_sources(tmp_path, tmp_path / "a/b", []).state.folder == tmp_path / "a/b"


@pytest.mark.parametrize("text", ["", "two tokens", "\n\n"])
def test_a_token_file_must_hold_one_token(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(ConfigError, match="one token"):
        read_token(tmp_path / "token")


def test_a_token_is_read_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_abc\n")
    assert read_token(tmp_path / "token") == "hf_abc"
    assert read_token(None) == ""


def test_a_public_url_needs_its_scheme() -> None:
    with pytest.raises(ConfigError, match="http://"):
        WorkerConfig(Path("data"), public_url="hub.lan").proxy_settings()
    with pytest.raises(ConfigError, match="trusted_proxies"):
        WorkerConfig(Path("data"), trusted_proxies=("nowhere",)).proxy_settings()


def test_every_setting_is_documented() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "configuration.md").read_text()
    for setting in SETTINGS.values():
        assert f"`{setting.key}`" in page
        assert setting.help in page
