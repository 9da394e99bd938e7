"""Text of unknown encoding."""

from __future__ import annotations

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAX_BROKEN = 0.05
"""The part of a text that may be broken: a few characters of another encoding."""


def decoded(body: bytes) -> str | None:
    """The text; None if the bytes are not a text. A last character may be cut off."""
    encoding = next((name for mark, name in _MARKS if body.startswith(mark)), "utf-8")
    text = body.decode(encoding, errors="replace")
    if "\0" in text or text.count("\ufffd") > 1 + _MAX_BROKEN * len(text):
        return None
    return text
