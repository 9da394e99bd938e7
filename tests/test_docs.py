"""The documentation names what exists, and what it names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from mirror.catalog import Catalog
from mirror.cli import main
from mirror.layers import FirstFound
from mirror.state import State
from mirror.web.app import ANSWERS
from mirror.web.observe import Metrics

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


COMMANDS = [
    command.replace("\\\n", " ")
    for page in PAGES
    for command in re.findall(r"^\$ (?:\S*/)?hubmirror ((?:.*\\\n)*.*)$", page.read_text(), re.M)
]


def _docs() -> str:
    return "".join(page.read_text() for page in PAGES)


@pytest.mark.parametrize("action", sorted(ANSWERS))
def test_every_action_is_in_the_protocol_page(action: str) -> None:
    assert f"| `{action}` |" in (ROOT / "docs" / "protocol.md").read_text()


@pytest.mark.parametrize("verb", main.list_commands(click.Context(main)))
def test_every_verb_is_named(verb: str) -> None:
    assert f"hubmirror {verb}" in _docs() + (ROOT / "Makefile").read_text()


def test_every_metric_is_named(tmp_path: Path) -> None:
    state = State(tmp_path)
    text = Metrics(Catalog(FirstFound([]), state)).render().decode()
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
    verb: click.Command = main
    while isinstance(verb, click.Group):
        verb = verb.get_command(click.Context(verb), words.pop(0)) or pytest.fail("no such verb")
    verb.make_context("", words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_changelog_knows_the_version() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
