"""Turns the Markdown of strangers into HTML that is safe to show.

The result is a list of segments: HTML, and the links and images between them. Where a link leads
depends on the mirror at the time of a request (`mirror/pages/links.py`), so that the segments can
be kept.
"""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import nh3
from markdown_it import MarkdownIt

from mirror.pages.code import highlight

if TYPE_CHECKING:
    from collections.abc import Sequence

Segment = str | list[str]
"""HTML, or `["a", url]`, `["/a"]`, `["img", url, alternative text]`."""

MAX_HTML = 4 * 1024 * 1024
ANCHOR = "card-"
"""The start of each id in a card, so that no id of the page is taken."""

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_TAGS = {
    "a", "abbr", "b", "blockquote", "br", "caption", "center", "cite", "code", "dd", "del",
    "details", "div", "dl", "dt", "em", "figcaption", "figure", "hr", "i", "img", "ins", "kbd",
    "li", "mark", "ol", "p", "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary",
    "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul", "var", *_HEADINGS,
}  # fmt: skip
_ATTRIBUTES = {
    "a": {"href"},
    "img": {"src", "alt"},
    "td": {"colspan", "rowspan", "align"},
    "th": {"colspan", "rowspan", "align"},
    "ol": {"start"},
    "span": {"class"},
    **{heading: {"id"} for heading in _HEADINGS},
}
_GLOBAL = {"dir"}
_VOID = ("br", "hr", "img")
_TOKEN_CLASS = re.compile(r"[a-z][a-z0-9]{0,2}")
_SMALL_NUMBER = re.compile(r"[0-9]{1,3}")
_VALUES = {
    "dir": re.compile(r"ltr|rtl|auto"),
    "align": re.compile(r"left|right|center"),
    "class": _TOKEN_CLASS,
    "colspan": _SMALL_NUMBER,
    "rowspan": _SMALL_NUMBER,
    "start": _SMALL_NUMBER,
}


class TooLongError(ValueError):
    """The HTML of a card is longer than any page should be."""


def card_segments(text: str) -> list[Segment]:
    """The segments of a card. Raises TooLongError."""
    markdown = MarkdownIt("default", {"html": True, "linkify": False, "highlight": _code})
    tokens = markdown.parse(text)
    for token in tokens:
        if token.type in ("th_open", "td_open"):
            token.attrs = {"align": str(token.attrGet("style") or "").partition(":")[2]}
    html = nh3.clean(
        markdown.renderer.render(tokens, markdown.options, {}),
        tags=_TAGS,
        clean_content_tags={"script", "style", "iframe", "object", "template", "noscript"},
        attributes={**_ATTRIBUTES, "*": _GLOBAL},
        attribute_filter=_attribute,
        url_schemes={"http", "https"},
        link_rel=None,
    )
    if len(html) > MAX_HTML:
        raise TooLongError
    splitter = _Splitter()
    splitter.feed(html)
    splitter.close()
    return splitter.segments()


def _code(text: str, language: str, _: str) -> str:
    return highlight(text, language)


def _attribute(_: str, name: str, value: str) -> str | None:
    allowed = _VALUES.get(name)
    return value if allowed is None or allowed.fullmatch(value) else None


class _Splitter(HTMLParser):
    """Splits clean HTML at its links and images, and makes it fit into a page: headings begin at
    the second level and have ids, and what scrolls can be reached with the keyboard."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[Segment] = []
        self._ids: set[str] = set()
        self._heading: tuple[int, list[str]] | None = None

    def segments(self) -> list[Segment]:
        """The segments, with adjacent HTML as one."""
        joined: list[Segment] = []
        buffer: list[str] = []
        for part in self._parts:
            if isinstance(part, str):
                buffer.append(part)
                continue
            joined += ["".join(buffer), part]
            buffer.clear()
        return [part for part in [*joined, "".join(buffer)] if part]

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self._parts.append(["a", given.get("href", "")])
        elif tag == "img":
            self._parts.append(["img", given.get("src", ""), given.get("alt", "")])
        elif tag in _HEADINGS:
            self._heading = (len(self._parts), [])
            self._parts.append(f"<{_lower(tag)}>")
        else:
            self._parts.append(_opening(tag, given))

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._parts.append(["/a"])
        elif tag == "table":
            self._parts.append("</table></div>")
        elif tag in _HEADINGS:
            self._name_heading(tag)
            self._parts.append(f"</{_lower(tag)}>")
        elif tag not in _VOID:
            self._parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self._heading is not None:
            self._heading[1].append(data)
        self._parts.append(escape(data, quote=False))

    def _name_heading(self, tag: str) -> None:
        if self._heading is None:
            return
        index, words = self._heading
        self._heading = None
        slug = re.sub(r"[^\w\- ]", "", "".join(words).strip().lower()).replace(" ", "-")[:80]
        name = ANCHOR + slug
        if slug and name not in self._ids:
            self._ids.add(name)
            self._parts[index] = f'<{_lower(tag)} id="{escape(name)}">'


def _lower(heading: str) -> str:
    """The heading one level lower: the page has the first level."""
    return f"h{min(int(heading[1]) + 1, 6)}"


def _opening(tag: str, given: dict[str, str]) -> str:
    named = "".join(f' {name}="{escape(value)}"' for name, value in given.items())
    if tag == "pre":
        return f'<pre tabindex="0"{named}>'
    if tag == "table":
        return f'<div class="scroll" tabindex="0"><table{named}>'
    return f"<{tag}{named}>"
