"""The catalogue of messages is complete, and holds nothing that no page uses."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from mirror.core.repo import RepoType
from mirror.pages.browse import FILTERS, SIZES, SORTS
from mirror.pages.messages import LANGUAGES, MESSAGES, accepted_language

PAGES = Path(__file__).parents[2] / "mirror" / "pages"
_NAMES = re.compile(r"""\bt\('([a-z0-9-]+)'[,)]""")
_STATES = ("waiting", "partial", "corrupt", "failed", "stopped")
_MADE = {
    *(f"filter-{name}" for name in FILTERS),
    *(f"size-{name}" for name, _, _ in SIZES),
    *(f"sort-{name}" for name in SORTS),
    *(f"card-{name}" for name in ("binary", "long", "slow")),
    *(f"error-{status}" for status in (400, 401, 403, 404, 500, 503)),
    *(f"sign-in-{name}" for name in ("wrong", "often", "ended")),
    *(repo_type.plural for repo_type in RepoType),
    *(f"use-{repo_type.value}" for repo_type in RepoType),
    *_STATES,
    "image",
}
"""Names that a page puts together."""


def _used() -> set[str]:
    texts = [path.read_text() for path in (PAGES / "templates").iterdir()]
    return _MADE | {name for text in texts for name in _NAMES.findall(text)}


def test_each_message_is_there_in_each_language() -> None:
    for name, texts in MESSAGES.items():
        assert set(texts) == set(LANGUAGES), name
        assert all(text.strip() for text in texts.values()), name


def test_each_language_has_the_same_values() -> None:
    for name, texts in MESSAGES.items():
        fields = {
            language: {field for _, field, _, _ in Formatter().parse(text) if field}
            for language, text in texts.items()
        }
        assert len(set(map(frozenset, fields.values()))) == 1, name


def test_the_pages_use_each_message_and_no_other() -> None:
    assert _used() == set(MESSAGES)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("de, fr;q=0.9", "en"),
        ("de, zh;q=0.5, en;q=0.3", "zh"),
        ("zh;q=0, en;q=0.1", "en"),
        ("*", "en"),
        ("\xff;;q=x,zh-Hant", "zh"),
    ],
)
def test_the_language_is_that_of_the_browser(header: str, language: str) -> None:
    assert accepted_language(header) == language
