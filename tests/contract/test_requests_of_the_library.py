"""The addresses that the newest huggingface_hub builds, against docs/protocol.md and the routes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import huggingface_hub
import pytest

from mirror.web.routes import ROUTER

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def requests_of_the_library() -> set[str]:
    """What follows `{endpoint}` in the f-strings of the library, with `{}` for each value."""
    found = set()
    for path in Path(huggingface_hub.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr) and len(node.values) > 1 and _is_endpoint(node):
                rest = node.values[1:]
                texts = (str(one.value) if isinstance(one, ast.Constant) else "{}" for one in rest)
                found.add("".join(texts))
    return found


def _is_endpoint(text: ast.JoinedStr) -> bool:
    first = text.values[0]
    if not isinstance(first, ast.FormattedValue):
        return False
    return ast.unparse(first.value).rpartition(".")[2].lower() == "endpoint"


def documented() -> list[list[str]]:
    """The three lists of the page: answered, refused as writes, not answered."""
    section = PAGE.read_text().partition("## Requests of huggingface_hub")[2].partition("\n## ")[0]
    lists = re.findall(r"^(?:`/[^`]*`,?\.?\s)+", section, re.M)
    return [re.findall(r"`([^`]+)`", one) for one in lists]


def path_of(address: str) -> bytes:
    """An address with values."""
    for text, value in (
        ("/{}s/", "/models/"), ("xet-{}-token", "xet-read-token/main"),
        ("/tree/{}{}", "/tree/main"),
        ("{}{}.git", "a/b.git"),
    ):  # fmt: skip
        address = address.replace(text, value)
    address = re.sub(r"(/(?:models|datasets|spaces|kernels)/)\{\}", r"\1a/b", address)
    return address.replace("{}", "a").encode()


def test_each_request_of_the_newest_library_is_documented() -> None:
    listed = [address for one in documented() for address in one]
    assert len(listed) == len(set(listed))
    assert set(listed) == requests_of_the_library()


@pytest.mark.parametrize("address", documented()[0])
def test_what_is_documented_as_answered_has_a_route(address: str) -> None:
    assert ROUTER.match(path_of(address)) is not None


@pytest.mark.parametrize("address", documented()[1])
def test_what_is_documented_as_refused_takes_no_post(address: str) -> None:
    match = ROUTER.match(path_of(address))
    assert match is None or not match.route.max_body
