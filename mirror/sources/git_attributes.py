"""The `filter` attribute of paths, from `.gitattributes` files (gitattributes(5)).

Patterns match bytes, as in git. Bodies and paths are decoded as latin-1, one character for a byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MAX_RULES = 1000
_MAX_LINE = 2048  # git ignores longer lines
_BLANKS = " \t\r\n"
_MACRO = "[attr]"
_FILTER = "filter"
_NAME = re.compile(r"[A-Za-z0-9_.][-A-Za-z0-9_.]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\(?:[abfnrtv"\\]|[0-3][0-7]{2}))*)"')
_ESCAPE = re.compile(r"\\(?:([0-3][0-7]{2})|(.))")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_TOKEN = re.compile(
    r"\\.|\[[!^]?\]?(?:\[:[a-z]*:\]|\\.|[^\]\\])*\]|\*+|.", re.DOTALL
)  # an escape, a bracket, asterisks, or another character
_CLASSES = {
    "alnum": r"0-9A-Za-z", "alpha": r"A-Za-z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f",
    "digit": r"0-9", "graph": r"!-~", "lower": r"a-z", "print": r" -~",
    "punct": r"!-/:-@\[-`{-~", "space": r" \t-\r", "upper": r"A-Z", "xdigit": r"0-9A-Fa-f",
}  # fmt: skip
_IN_BRACKET = re.compile(
    r"\[:([a-z]*):\]|(\\.|[^\\])-(\\.|[^\\\]])|(\\.|.)", re.DOTALL
)  # a class, a range, or one character
_ANY_FOLDERS = None
"""The segment `**` of a pattern."""

Attributes = tuple[tuple[str, str | None], ...]
"""Names with values. The value is `set` or `unset` for `name` and `-name`, None for `!name`."""


class Pattern:
    """A pattern of a `.gitattributes` file, for paths relative to its folder."""

    def __init__(self, text: str) -> None:
        self._in_any_folder = "/" not in text
        parts = _TOKEN.findall(text.removeprefix("/"))
        self._segments = [_segment(segment) for segment in _split(parts)]

    def matches(self, path: str) -> bool:
        if self._in_any_folder:
            (segment,) = self._segments
            return not segment or segment.fullmatch(path.rpartition("/")[2]) is not None
        names = path.split("/")
        ends = {0}  # how many names the segments so far can match
        for number, segment in enumerate(self._segments):
            if segment is _ANY_FOLDERS:
                is_last = number == len(self._segments) - 1
                ends = set(range(min(ends) + is_last, len(names) + 1))
            else:
                ends = {
                    end + 1 for end in ends if end < len(names) and segment.fullmatch(names[end])
                }
            if not ends:
                return False
        return len(names) in ends


@dataclass(frozen=True, slots=True)
class AttributesFile:
    """The rules of one file that concern the filter. Equal bodies make equal values."""

    body: str
    rules: Sequence[tuple[Pattern, Attributes]] = field(compare=False)
    macros: Mapping[str, Attributes] = field(compare=False)

    @classmethod
    def parse(cls, body: bytes) -> AttributesFile:
        """Lines that git ignores are ignored; so are those after the first thousand rules."""
        text = body.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
        rules: list[tuple[Pattern, Attributes]] = []
        macros: dict[str, Attributes] = {}
        for pattern, is_macro, attributes in _lines(text):
            if is_macro:
                macros[pattern] = attributes
            elif not pattern.endswith("/"):  # such a pattern matches folders only
                rules.append((Pattern(pattern), attributes))
            if len(rules) + len(macros) >= _MAX_RULES:
                break
        return cls(text, tuple(reversed(rules)), macros)


@dataclass(frozen=True, slots=True)
class GitAttributes:
    """All `.gitattributes` files of a folder, by the paths of their folders: `` or `a/b`."""

    files: Mapping[str, AttributesFile]

    def filter_of(self, path: str) -> str | None:
        """The value of the attribute `filter`; None if no file specifies it."""
        path = path.encode(errors="surrogateescape").decode("latin-1")
        macros = self.files[""].macros if "" in self.files else {}
        found: dict[str, str | None] = {}
        for folder in _upwards(path):
            name = path.removeprefix(f"{folder}/")
            here = self.files.get(folder)
            for pattern, attributes in here.rules if here else ():
                if not _is_settled(attributes, found) and pattern.matches(name):
                    _assign(attributes, found, macros)
                if _FILTER in found:
                    return found[_FILTER]
        return None


def _is_settled(attributes: Attributes, found: Mapping[str, str | None]) -> bool:
    return all(name in found for name, _ in attributes)


def _assign(
    attributes: Attributes, found: dict[str, str | None], macros: Mapping[str, Attributes]
) -> None:
    """Add the attributes that have no value yet; the last one of a line comes first. A macro that
    is set brings its own attributes."""
    pending = list(attributes)
    while pending:
        name, value = pending.pop()
        if name not in found:
            found[name] = value
            if value == "set" and name in macros:
                pending += macros[name]


def _upwards(path: str) -> Iterator[str]:
    """The folders of a path, from its own to the root."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def _lines(text: str) -> Iterator[tuple[str, bool, Attributes]]:
    """The pattern or the name of the macro, whether it is a macro, and the attributes."""
    for whole in text.split("\n"):
        line = whole.partition("\0")[0].lstrip(_BLANKS)
        if not line or line.startswith("#") or len(whole.encode("latin-1")) >= _MAX_LINE:
            continue
        quoted = _QUOTED.match(line)
        if quoted:
            pattern, rest = _unquote(quoted[1]), line[quoted.end() :]
        else:
            pattern, *more = re.split(rf"[{_BLANKS}]", line, maxsplit=1)
            rest = more[0] if more else ""
        attributes = _attributes(rest)
        is_macro = pattern.startswith(_MACRO) and len(pattern) > len(_MACRO)
        if is_macro:
            pattern = pattern.removeprefix(_MACRO)
        if attributes and pattern and (is_macro or not pattern.startswith("!")):
            yield pattern, is_macro, attributes


def _attributes(text: str) -> Attributes:
    """The attributes of a line; none if one of them has an invalid name, as in git."""
    found: list[tuple[str, str | None]] = []
    for word in text.split():
        name, equals, value = word.partition("=")
        sign = name[:1] if name[:1] in ("-", "!") else ""
        name = name.removeprefix(sign)
        if not _NAME.fullmatch(name) or name.startswith("builtin_"):
            return ()
        if sign:
            found.append((name, "unset" if sign == "-" else None))
        else:
            found.append((name, value if equals else "set"))
    return tuple(found)


def _unquote(text: str) -> str:
    def char(match: re.Match[str]) -> str:
        return chr(int(match[1], 8)) if match[1] else _ESCAPES.get(match[2], match[2])

    return _ESCAPE.sub(char, text)


def _split(parts: list[str]) -> Iterator[list[str]]:
    segment: list[str] = []
    for part in parts:
        if part == "/":
            yield segment
            segment = []
        else:
            segment.append(part)
    yield segment


def _segment(parts: list[str]) -> re.Pattern[str] | None:
    """A regex for one name. Atomic groups keep its time linear: what follows an asterisk is
    matched where it comes first, except at the end."""
    if len(parts) == 1 and parts[0].startswith("**"):
        return _ANY_FOLDERS
    runs: list[str] = [""]
    for part in parts:
        if part.startswith("*"):
            runs.append("")
        else:
            runs[-1] += _char(part)
    first, *middle = runs
    if not middle:
        return re.compile(first, re.DOTALL)
    *middle, last = middle
    body = "".join(f"(?>.*?{run})" for run in middle if run)
    return re.compile(f"{first}{body}.*{last}", re.DOTALL)


def _char(part: str) -> str:
    """A regex for one character of a name."""
    if part == "?":
        return "."
    if part.startswith("\\") and len(part) == 2:
        return re.escape(part[1])
    if part.startswith("[") and len(part) > 1:
        return _bracket(part[1:-1])
    return "(?!)" if part in ("[", "\\") else re.escape(part)


def _bracket(text: str) -> str:
    sign = "^" if text[0] in "!^" else ""
    parts = []
    for match in _IN_BRACKET.finditer(text[len(sign) :]):
        name, low, high, single = match.groups()
        if single:
            parts.append(_literal(single))
        elif low:
            parts.append(_range(low, high))
        elif name in _CLASSES:
            parts.append(_CLASSES[name])
        else:
            return "(?!)"
    body = "".join(parts)
    return f"[{sign}{body}]" if body else ("." if sign else "(?!)")


def _literal(text: str) -> str:
    return f"\\x{ord(text[-1]):02x}"


def _range(low: str, high: str) -> str:
    """In git, the first character of a range always matches."""
    is_empty = low[-1] > high[-1]
    return _literal(low) if is_empty else f"{_literal(low)}-{_literal(high)}"
