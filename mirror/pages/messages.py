"""The sentences of the pages in each language, from messages.toml."""

from __future__ import annotations

import re
import tomllib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LANGUAGES = {"en": "English", "zh": "中文"}
_HTML_LANG = {"en": "en", "zh": "zh-CN"}
_MAX_HEADER = 200
_RANGE = re.compile(
    r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*"
)


def _load() -> Mapping[str, Mapping[str, str]]:
    text = Path(__file__).with_name("messages.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


MESSAGES = _load()
"""Each message by its name, and then by its language."""


def message(language: str, name: str, /, **values: object) -> str:
    """A message with its values."""
    return MESSAGES[name][language].format_map(values)


def messages(language: str) -> Callable[..., str]:
    """The function that gives the messages of a language."""
    return partial(message, language)


def html_language(language: str) -> str:
    """The value of the attribute `lang`."""
    return _HTML_LANG[language]


def accepted_language(header: str) -> str:
    """The language that an Accept-Language header prefers; English if it names none of ours."""
    best, language = 0.0, "en"
    for part in header[:_MAX_HEADER].split(","):
        if match := _RANGE.fullmatch(part):
            name = match[1].lower()
            weight = float(match[2] or 1)
            if name in LANGUAGES and weight > best:
                best, language = weight, name
    return language
