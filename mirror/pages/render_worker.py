"""A process that renders one text of a stranger: `python -m mirror.pages.render_worker KIND NAME`.

It reads the text from standard input and writes JSON. It limits its own time and memory, so that a
text that is made to be slow ends this process and disturbs no request.
"""

from __future__ import annotations

import resource
import sys

import orjson

MAX_CPU_S = 5
_MAX_MEMORY = 1024 * 1024 * 1024


def main(kind: str, name: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    body = sys.stdin.buffer.read()
    sys.stdout.buffer.write(orjson.dumps(_render(kind, name, body)))


def _render(kind: str, name: str, body: bytes) -> object:
    """Imports after the limits are set: each kind needs other packages."""
    text = body.decode(errors="replace")
    if kind == "card":
        from mirror.pages.card import card_segments  # noqa: PLC0415

        return card_segments(text)
    from mirror.pages.code import highlight_file  # noqa: PLC0415

    return [highlight_file(text, name)]


if __name__ == "__main__":
    main(*sys.argv[1:])
