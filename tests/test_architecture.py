"""The architecture page names what exists, and the picture shows every room."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
NAMES = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))))

_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:md|toml|py)|Makefile")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_NAME = re.compile(r"[A-Z][a-z]\w*|[A-Z]+|[a-z]+(?:_[a-z]+)+|\w+\(.*\)")


@functools.cache
def _defined(folder: str) -> tuple[set[str], set[str]]:
    """The names that the modules below a folder define, alone and as `Class.name`."""
    names: set[str] = set()
    members: set[str] = set()
    for module in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            for name in _names_of(node):
                names.add(name)
            if isinstance(node, ast.ClassDef):
                inside = (name for one in ast.walk(node) for name in _names_of(one))
                members.update(f"{node.name}.{name}" for name in inside)
    return names, members


def _names_of(node: ast.AST) -> list[str]:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return [name]
        case ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.name for alias in aliases]
    return []


def _is_importable(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False


def _exists(name: str) -> bool:
    if _PATH.fullmatch(name):
        return (ROOT / name).exists()
    if _DOTTED.fullmatch(name):
        return name in _defined("mirror")[1] or _is_importable(name)
    if _NAME.fullmatch(name):
        return name.partition("(")[0] in _defined("mirror")[0] | _defined("tests")[0]
    return True


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_exists(name: str) -> None:
    assert _exists(name)


def test_a_name_that_is_wrong_would_be_found() -> None:
    wrong = (
        "mirror/web/nothing.py",
        "nothing.md",
        "Source.nothing",
        "os.nothing",
        "Nothing_at_all",
    )
    assert not any(map(_exists, wrong))


def test_the_picture_shows_every_room_in_its_layer() -> None:
    picture = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)[0]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rooms = [re.split(r" \| ", layer) for layer in contracts["contracts"][0]["layers"]]
    drawn = [re.findall(r"│\s+(\w+)\s+(?=│)", line) for line in picture.splitlines()]
    assert [line for line in drawn if line] == rooms
    here = {path.parent.name for path in (ROOT / "mirror").glob("*/__init__.py")}
    assert {room for line in rooms for room in line} == here | {"config"}


def test_every_room_has_its_line() -> None:
    for room in (ROOT / "mirror").glob("*/__init__.py"):
        assert f"| `mirror/{room.parent.name}` |" in TEXT
