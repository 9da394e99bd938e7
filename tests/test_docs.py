"""The documentation names what exists, and what it names exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement

from mirror.cli import main
from mirror.cli.openllm_env import variables
from mirror.derived.catalog import Catalog
from mirror.derived.state import State
from mirror.pages.status import StatusBoard
from mirror.server.certificates import init, issue
from mirror.sources.first_found import FirstFound
from mirror.web.observe import Metrics
from mirror.web.routes import ROUTES
from tests.clients.clients import CLIENTS, Client
from tests.openllm.pages import commands

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "tests" / "gpu" / "README.md",
]
DECISIONS = ROOT / "docs" / "decisions"


COMMANDS = [
    command.replace("\\\n", " ")
    for page in PAGES
    for command in re.findall(r"^\$ (?:\S*/)?hubmirror ((?:.*\\\n)*.*)$", page.read_text(), re.M)
]


def _docs() -> str:
    return "".join(page.read_text() for page in PAGES)


def test_the_protocol_page_has_the_table_of_routes() -> None:
    """Each route once, with its templates, its name and how it is read."""
    page = (ROOT / "docs" / "protocol.md").read_text()
    rows = re.findall(r"^\| `(/[^`]*)` \| `([a-z0-9-]+)` \|", page, re.M)
    assert rows == [(template, route.name) for route in ROUTES for template in route.templates]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_table_of_clients_gives_the_reasons_of_today(client: Client) -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    assert f"| {client.name} |" in page
    assert all(re.search(rf"^- .*\b{client.name}\b.*: {re.escape(reason)}\.$", page, re.M)
               for reason in client.lacks.values())  # fmt: skip


@pytest.mark.parametrize("verb", main.list_commands(click.Context(main)))
def test_every_verb_is_named(verb: str) -> None:
    assert f"hubmirror {verb}" in _docs() + (ROOT / "Makefile").read_text()


def test_every_metric_is_named(tmp_path: Path) -> None:
    state = State(tmp_path)
    sources, authority = FirstFound([]), init(tmp_path / "ca").parent
    catalog = Catalog(sources, state)
    board = StatusBoard(sources, catalog, tmp_path, issue(authority, ["mirror.site"]))
    text = Metrics(catalog, board).render().decode()
    for name in re.findall(r"# TYPE (\w+)", text):
        assert f"`{name}`" in (ROOT / "docs" / "operating.md").read_text()


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # BentoML's own
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words, that is; what it does is tested where it is done."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    for word in words:
        if word.endswith((".bentomodel", ".toml")):
            Path(word).touch()
    verb: click.Command = main
    while isinstance(verb, click.Group):
        verb = verb.get_command(click.Context(verb), words.pop(0)) or pytest.fail("no such verb")
    verb.make_context("", words)


def test_every_command_for_openllm_is_run_by_a_test() -> None:
    """But for those that install it, whose words are compared, and that need a Docker engine."""
    source = "".join(
        "".join(re.findall(r'documented\(\s*((?:"[^"]*"\s*)+)', path.read_text()))
        for path in sorted((ROOT / "tests" / "openllm").glob("*.py"))
    )
    run = re.sub(r'"\s*"', "", source)
    others = [one for one in commands() if one not in run]
    assert others == [
        "pip install openllm==0.6.30 'typer<0.26' 'setuptools<81'",
        "OPENLLM_MODEL=llama3.2:1b docker compose --profile gpu up --build",
    ]
    asked = ROOT.joinpath("tests/openllm/requirements/openllm-0.6.in").read_text().split()
    installed = [Requirement(word) for word in shlex.split(others[0])[2:]]
    for wanted in map(Requirement, asked):
        (one,) = (one for one in installed if one.name == wanted.name)
        assert one == wanted or next(iter(wanted.specifier)).version in one.specifier


def test_the_composed_openllm_is_told_what_env_tells() -> None:
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    told = composed["services"]["openllm"]["environment"]
    wanted = variables("http://mirror:8400", ["github.com"])
    assert told.pop("UV_CONSTRAINT") == "${OPENLLM_CONSTRAINT:-}"
    assert told == wanted | {"HF_TOKEN": f"${{HF_TOKEN:-{wanted['HF_TOKEN']}}}"}


def test_docker_understands_what_is_composed() -> None:
    docker = ["docker", "compose", "--profile", "gpu", "config", "--quiet"]
    if (
        shutil.which("docker") is None
        or subprocess.run([*docker[:2], "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed here")
    subprocess.run(docker, cwd=ROOT, check=True)


def _headings(page: Path) -> list[str]:
    """The headings of a page, in their order; a line of code that looks like one is none."""
    return re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """What a link may name after `#`, as GitHub makes it of the headings."""
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in _headings(page))
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), target


def test_the_index_of_decisions_is_complete() -> None:
    rows: list[str] = []
    for record in sorted(DECISIONS.glob("[0-9]*.md")):
        found = re.match(
            r"# (\d+)\. (.+)\n\n- Date: (\d{4}-\d\d-\d\d)\n"
            r"- Status: (accepted|superseded by \[\d+\]\(\d{4}-[\w-]+\.md\))\n",
            record.read_text(),
        )
        assert found, f"{record.name} lacks its number, title, date or status"
        assert int(record.name[:4]) == int(found[1]) == len(rows) + 1
        rows.append(f"| [{found[1]}]({record.name}) | {' | '.join(found.groups()[1:])} |")
    assert re.findall(r"^\| \[.+$", (DECISIONS / "README.md").read_text(), re.M) == rows


@pytest.mark.parametrize("record", sorted(DECISIONS.glob("[0-9]*.md")), ids=lambda one: one.name)
def test_a_decision_names_the_one_that_supersedes_it(record: Path) -> None:
    if newer := re.search(r"^- Status: superseded by \[\d+\]\((.+)\)$", record.read_text(), re.M):
        assert f"It supersedes [{int(record.name[:4])}]" in (DECISIONS / newer[1]).read_text()


def test_the_chinese_readme_has_the_same_parts() -> None:
    """The same sections in the same order, the same commands, the same links."""
    pages = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
    shapes = [re.findall(r"^(#+) ", _prose(page), re.M) for page in pages]
    assert shapes[0] == shapes[1]
    code = [re.findall(r"^```\w+\n.*?^```", page.read_text(), re.M | re.S) for page in pages]
    assert code[0] == code[1]
    rows = [len(re.findall(r"^\|", _prose(page), re.M)) for page in pages]
    assert rows[0] == rows[1]
    links = [sorted(re.findall(r"\]\(([^)]+)\)", page.read_text())) for page in pages]
    others = [[one for one in found if not one.startswith("README")] for found in links]
    assert others[0] == others[1]


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_changelog_knows_the_version() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
