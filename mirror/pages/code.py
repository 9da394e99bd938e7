"""Source text as HTML with the classes of pygments."""

from __future__ import annotations

from html import escape

from pygments import highlight as pygments_highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.util import ClassNotFound


def highlight(text: str, language: str) -> str:
    """The text in a language; as it is if the language is not known."""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return escape(text, quote=False)
    return pygments_highlight(text, lexer, HtmlFormatter(nowrap=True))


def highlight_file(text: str, name: str) -> str:
    """The text of a file, whose name tells the language."""
    try:
        lexer = get_lexer_for_filename(name)
    except ClassNotFound:
        return escape(text, quote=False)
    return pygments_highlight(text, lexer, HtmlFormatter(nowrap=True))
