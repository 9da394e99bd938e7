"""Checks the requirements of a bento, which are untrusted: only package names and versions pass.

uv and pip accept more in a requirements file: indexes, folders, other files, URLs, repositories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement

from mirror.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_LINES = 10_000
_MAX_LINE_LENGTH = 64 * 1024
_COMMENT = re.compile(r"(?:^|\s)#.*")
_CONTINUED = re.compile(r"\\\n")
_HASH = re.compile(r"\s--hash[= ]sha(?:256|384|512):[0-9a-f]{64,128}(?=\s|$)")
_INDEX = re.compile(r"(?P<option>--index-url|--extra-index-url|-i)[= ]\s*(?P<url>\S+)")


@dataclass(frozen=True, slots=True)
class Requirements:
    """The input of uv.

    `lines` are requirements with their hashes, `default_index` replaces the index that uv is
    configured with (empty: keep it), and `indexes` are additional indexes.
    """

    lines: tuple[str, ...]
    default_index: str = ""
    indexes: tuple[str, ...] = ()


def lines_of(tag: str, body: bytes) -> tuple[str, ...]:
    """The unchanged lines of a requirements file, without empty lines and comment lines.

    `tag` is the tag of the bento, for messages. Raises ConfigError if there are too many lines or
    a line is too long.
    """
    lines = [line.strip() for line in body.decode(errors="replace").splitlines()]
    kept = tuple(line for line in lines if line and not line.startswith("#"))
    if len(kept) > _MAX_LINES or max(map(len, kept), default=0) > _MAX_LINE_LENGTH:
        raise ConfigError(
            f"The requirements of the bento {tag} have more than {_MAX_LINES} lines, or a line of "
            f"more than {_MAX_LINE_LENGTH} characters. Report it to the author of the bento."
        )
    return kept


def check(tag: str, lines: Sequence[str], trusted: Sequence[str]) -> Requirements:
    """Check that each requirement of a bento is safe to pass to uv.

    `tag` is the tag of the bento, for messages; `trusted` are the URLs of the indexes that the
    operator trusts. An untrusted `--index-url` is ignored, because the bentos of 2025 begin with
    one: uv uses its configured index. Raises ConfigError, with the line, for an untrusted
    `--extra-index-url` and for any other line that is not a package name with versions.
    """
    default_index, indexes, kept = "", [], []
    for line in _logical_lines(lines):
        if match := _INDEX.fullmatch(line):
            is_trusted = match["url"].rstrip("/") in {url.rstrip("/") for url in trusted}
            if match["option"] == "--extra-index-url":
                if not is_trusted:
                    raise _untrusted_index(tag, line, match["url"])
                indexes.append(match["url"])
            elif is_trusted:
                default_index = match["url"]
        else:
            kept.append(_checked_line(tag, line))
    return Requirements(tuple(kept), default_index, tuple(dict.fromkeys(indexes)))


def _logical_lines(lines: Sequence[str]) -> list[str]:
    """Join the lines that end in a backslash with the next line, and remove comments."""
    joined = _CONTINUED.sub(" ", "\n".join(lines)).split("\n")
    stripped = (_COMMENT.sub("", line).strip() for line in joined)
    return [line for line in stripped if line]


def _untrusted_index(tag: str, line: str, url: str) -> ConfigError:
    return ConfigError(
        f"The requirements{_of(tag)} add an index: {_escaped(line)}. The owner of an index decides "
        f"what is installed. If you trust it, add: --trust-index {_escaped(url)}"
    )


def _checked_line(tag: str, line: str) -> str:
    try:
        requirement = Requirement(_HASH.sub("", line).strip())
    except (InvalidRequirement, RecursionError) as exc:
        raise ConfigError(
            f"The requirements{_of(tag)} have a line that is not a package name with versions: "
            f"{_escaped(line)}. Only these are accepted. Report it to the author of the bento."
        ) from exc
    if requirement.url:
        raise ConfigError(
            f"The requirements{_of(tag)} install a package from a URL: {_escaped(line)}. Build a "
            "wheel of it yourself, pass its folder with --find-links, and use a bento that "
            "requires the package by its version."
        )
    return " ".join([str(requirement), *_hashes(line)])


def _hashes(line: str) -> Iterator[str]:
    return (match[0].strip().replace("--hash ", "--hash=") for match in _HASH.finditer(line))


def _of(tag: str) -> str:
    return f" of the bento {tag}" if tag else ""


def _escaped(text: str) -> str:
    return ascii(text[:200])
