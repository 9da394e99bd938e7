"""The requirements of a bento, which a stranger wrote: names and versions of packages alone.

uv and pip take much more from such a file: indexes, folders, other files, URLs and repositories.
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
_LONGEST = 64 * 1024
_COMMENT = re.compile(r"(?:^|\s)#.*")
_CONTINUED = re.compile(r"\\\n")
_HASH = re.compile(r"\s--hash[= ]sha(?:256|384|512):[0-9a-f]{64,128}(?=\s|$)")
_INDEX = re.compile(r"(?P<option>--index-url|--extra-index-url|-i)[= ]\s*(?P<url>\S+)")


@dataclass(frozen=True, slots=True)
class Requirements:
    """What uv is given: requirements, each with its hashes, and the indexes that it is to ask: the
    one that takes the place of its own, where there is one, and others."""

    lines: tuple[str, ...]
    default_index: str = ""
    indexes: tuple[str, ...] = ()


def lines_of(tag: str, body: bytes) -> tuple[str, ...]:
    """The lines of a requirements file, as they are, without those that are a comment. Raises
    ConfigError where they are too many or too long."""
    lines = [line.strip() for line in body.decode(errors="replace").splitlines()]
    kept = tuple(line for line in lines if line and not line.startswith("#"))
    if len(kept) > _MAX_LINES or max(map(len, kept), default=0) > _LONGEST:
        raise ConfigError(
            f"The requirements of the bento {tag} have more than {_MAX_LINES} lines, or a line of "
            f"more than {_LONGEST} characters. Tell who made it."
        )
    return kept


def check(tag: str, lines: Sequence[str], trusted: Sequence[str]) -> Requirements:
    """The requirements of a bento, where each is safe to be given to uv. An index may be named that
    the operator trusts. Another one that is to replace uv's own (`--index-url`, with which bentos
    of 2025 begin) is not asked: uv's own is. Raises ConfigError, naming the line."""
    default, others, kept = "", [], []
    for line in _logical(lines):
        if match := _INDEX.fullmatch(line):
            is_trusted = match["url"].rstrip("/") in {one.rstrip("/") for one in trusted}
            if match["option"] == "--extra-index-url":
                if not is_trusted:
                    raise _untrusted(tag, line, match["url"])
                others.append(match["url"])
            elif is_trusted:
                default = match["url"]
        else:
            kept.append(_checked(tag, line))
    return Requirements(tuple(kept), default, tuple(dict.fromkeys(others)))


def _logical(lines: Sequence[str]) -> list[str]:
    """Lines that a backslash joins are one; comments at their ends are left out."""
    joined = _CONTINUED.sub(" ", "\n".join(lines)).split("\n")
    plain = (_COMMENT.sub("", line).strip() for line in joined)
    return [line for line in plain if line]


def _untrusted(tag: str, line: str, url: str) -> ConfigError:
    return ConfigError(
        f"The requirements{_of(tag)} name an index: {_shown(line)}. Whoever runs it decides "
        f"what is installed. If you trust it, add: --trust-index {_shown(url)}"
    )


def _checked(tag: str, line: str) -> str:
    plain = _HASH.sub("", line).strip()
    try:
        requirement = Requirement(plain)
    except (InvalidRequirement, RecursionError) as exc:
        raise ConfigError(
            f"The requirements{_of(tag)} have a line that is none: {_shown(line)}. Only "
            "names and versions of packages are taken; tell who made it."
        ) from exc
    if requirement.url:
        raise ConfigError(
            f"The requirements{_of(tag)} take a package from a URL: {_shown(line)}. Build a "
            "wheel of it yourself, name its folder with --find-links, and bring a bento that names "
            "its version."
        )
    return " ".join([str(requirement), *_hashes(line)])


def _hashes(line: str) -> Iterator[str]:
    return (match[0].strip().replace("--hash ", "--hash=") for match in _HASH.finditer(line))


def _of(tag: str) -> str:
    return f" of the bento {tag}" if tag else ""


def _shown(text: str) -> str:
    return ascii(text[:200])
