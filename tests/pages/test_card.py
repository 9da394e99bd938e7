"""Cards of strangers: what is left of them, and that none costs more than its limits."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mirror.core.repo import Repo
from mirror.core.source import LocalFile, Snapshot
from mirror.derived.state import State
from mirror.maintenance.garbage import unused_facts
from mirror.pages.card import card_segments
from mirror.pages.links import CardLinks
from mirror.pages.messages import messages
from mirror.pages.rendering import MAX_TEXT, Renderer
from tests.folders import COMMIT, MODEL, entry

HERE = Repo.parse("Org/Other")


def card(text: str, *, root: str = "", folder: str = "") -> str:
    files = {path: LocalFile(entry(path, b""), path) for path in ("LICENSE", "images/a b.png")}
    snapshot = Snapshot(MODEL, COMMIT, files, datetime.now(UTC))
    links = CardLinks(snapshot, root, lambda repo: repo == HERE, messages("en"), folder)
    return links.html(card_segments(text))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg onload=alert(1)><style>*{display:none}</style></svg>",
        "[a](javascript:alert(1)) <a href='javascript:alert(1)'>b</a> [c](data:text/html,x)",
        "<a href=' java\tscript:alert(1)'>x</a>",
        "<meta http-equiv=refresh content='0;url=https://evil.example'>",
        "<div style='position:fixed;inset:0' class='bar' id='main'>x</div>",
        "<iframe src=https://evil.example></iframe><object data=x></object><base href=//e>",
        "<form action=https://evil.example><input autofocus onfocus=alert(1)></form>",
        '<h2 id="x" onclick=alert(1)>a</h2><a name=main href=x>b</a>',
        '```"><script>alert(1)</script>\ncode\n```',
        "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
        "<math><mi//xlink:href='data:x,<script>alert(4)</script>'>",
    ],
)
def test_nothing_of_a_card_runs_or_covers_the_page(text: str) -> None:
    html = card(text).lower()
    for wrong in ("<script", "onerror=", "onload=", "onclick=", "onfocus=", "<style", "style=",
                  "<iframe", "<object", "<form", "<input", "<meta", "<base", "<svg", "<math",
                  'id="main"', 'id="x"', 'class="bar"', "href=\"java", "href=\"data"):  # fmt: skip
        assert wrong not in html


def test_links_to_the_hub_stay_here_if_their_target_is_here() -> None:
    html = card(
        "[a](https://huggingface.co/Org/Other) [b](https://hf.co/Org/Other/blob/main/x.md) "
        "[c](https://huggingface.co/Org/Absent) [d](https://huggingface.co/docs/transformers)"
    )
    assert '<a href="/Org/Other">a</a>' in html
    assert '<a href="/Org/Other/blob/main/x.md">b</a>' in html
    assert html.count("<a ") == 2
    assert "https://huggingface.co/Org/Absent" in html


def test_links_and_images_of_other_hosts_are_text_with_their_address() -> None:
    html = card("[site](https://example.com/x) ![badge](https://img.example/b.svg)")
    assert "<a " not in html
    assert "<img" not in html
    assert "site" in html
    assert "(https://example.com/x)" in html
    assert "[badge]" in html
    assert "(https://img.example/b.svg)" in html


def test_relative_links_lead_to_the_files_of_the_commit() -> None:
    html = card("[l](LICENSE) ![p](images/a%20b.png) [no](absent.txt) [up](../../etc/passwd)")
    assert f'<a href="/Org/Model/blob/{COMMIT}/LICENSE">l</a>' in html
    assert f'<img src="/Org/Model/resolve/{COMMIT}/images/a%20b.png" alt="p"' in html
    assert html.count("<a ") == 1


def test_links_have_the_path_that_a_proxy_adds() -> None:
    html = card("[l](LICENSE) [o](https://huggingface.co/Org/Other)", root="/hub")
    assert f'href="/hub/Org/Model/blob/{COMMIT}/LICENSE"' in html
    assert 'href="/hub/Org/Other"' in html


def test_headings_are_below_that_of_the_page_and_can_be_linked() -> None:
    html = card("# Quick start\n# Quick start\n[go](#quick-start)")
    assert html.count('<h2 id="card-quick-start">') == 1
    assert '<a href="#card-quick-start">go</a>' in html
    assert "<h1" not in html


def test_tables_keep_their_alignment_and_code_its_colours() -> None:
    html = card("|a|b|\n|-|-:|\n|1|2|\n\n```python\nimport os\n```")
    assert '<td align="right">2</td>' in html
    assert '<span class="kn">import</span>' in html


@pytest.mark.parametrize(
    "text",
    [
        "- " * 250_000,
        "> " * 250_000,
        "<div>" * 100_000,
        "[" * 200_000,
        "*a " * 150_000,
        "|" + "a|" * 2000 + "\n|" + "-|" * 2000 + "\n" + ("|" + "b|" * 2000 + "\n") * 100,
        "![" * 100_000 + "](" * 100_000,
    ],
    ids=["lists", "quotes", "elements", "brackets", "stars", "table", "images"],
)
def test_a_card_that_is_made_to_be_slow_ends_within_its_limits(text: str, tmp_path: Path) -> None:
    """The result is HTML or nothing; the process that renders it is gone in any case."""
    state = State(tmp_path)
    renderer = Renderer(state)
    found = renderer.card("0" * 40, text.encode())
    assert found is None or sum(len(str(one)) for one in found) < 20 * MAX_TEXT


def test_what_was_rendered_long_ago_is_garbage(tmp_path: Path) -> None:
    state = State(tmp_path.resolve())
    renderer = Renderer(state)
    renderer.card("2" * 40, b"# Card")
    renderer.code("2" * 40, "a.py", b"import os")
    kept = list(tmp_path.rglob("*.json"))
    assert len(kept) == 2
    for path in kept:
        os.utime(path, (0, 0))
    assert {one.path for one in unused_facts(state)} == set(kept)


def test_a_card_is_rendered_once(tmp_path: Path) -> None:
    state = State(tmp_path)
    first = Renderer(state).card("1" * 40, b"# Hello")
    assert first == ['<h2 id="card-hello">Hello</h2>\n']
    assert Renderer(state).card("1" * 40, b"another text of the same digest") == first
