"""The commands of the guides to OpenLLM, as the tests run them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from tests.openllm.closed import MIRROR_URL, ROOT
from tests.openllm.model_repository import TAG

PAGES = sorted((ROOT / "docs").glob("openllm*.md"))
_SET = re.compile(r"[A-Z_]+=.*")
# What stands in the tests for what the guides speak of.
_MEANT = {
    "llama3.2:1b": TAG,
    "http://mirror.site:8400": MIRROR_URL,
    "Qwen/Qwen2-7B-Instruct": "hubmirror/demo",
    "qwen--qwen2-7b-instruct": "hubmirror--demo",
    "facebook/opt-125m": "hubmirror/demo",
}


def commands() -> list[str]:
    """All lines after a `$`, those that go on joined."""
    texts = [page.read_text().replace("\\\n", "") for page in PAGES]
    return [
        re.sub(r" +", " ", one) for text in texts for one in re.findall(r"^\$ (.+)$", text, re.M)
    ]


def documented(line: str, meant: Mapping[str, str] | None = None) -> list[str]:
    """The words of a command of the guides after its variables and the program's name, with what is
    meant by them here."""
    assert line in commands(), f"no guide says: {line}"
    words = [word for word in shlex.split(line) if not _SET.fullmatch(word)]
    table = _MEANT | dict(meant or {})
    return [table.get(word, word) for word in words[1:]]
