"""The pages in a real Chromium. Requests to other hosts are blocked and counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.sources.pull_status import RunningPull
from mirror.web.access import Signer
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from tests.browser import Tab, chromium, opened
from tests.folders import COMMIT, make_safetensors
from tests.pages.site import add, make_site
from tests.servers import run_server

PAGES = {
    "home": "/",
    "repository": "/Org/Tiny",
    "folder": "/Org/Tiny/tree/main",
    "code": "/Org/Tiny/blob/main/config.json",
    "tensors": "/Org/Tiny/blob/main/model.safetensors",
    "table": "/Org/Tiny/blob/main/data.csv",
    "image": "/Org/Tiny/blob/main/images/plan.png",
    "organisation": "/Org",
    "dataset": "/datasets/Org/Films",
    "empty": "/spaces",
    "status": "/-/status",
    "error": "/Org/Absent",
    "hostile": "/Other/hostile",
}
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
TOKEN = "a-token-of-this-mirror"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hub = tmp_path_factory.mktemp("site") / "hub"
    make_site(hub)
    return hub


@contextlib.contextmanager
def served(hub: Path, **options: Any) -> Iterator[str]:
    state = State(hub.parent / "state")
    with contextlib.closing(Digests(state)) as digests:
        source = HfCache(hub, digests, managed=True, ttl_s=0)
        with run_server(create_app(FirstFound([source]), state, ttl_s=0, **options)) as url:
            yield url


@pytest.fixture(scope="module")
def url(hub: Path) -> Iterator[str]:
    with served(hub) as url:
        yield url


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Tab]:
    options: dict[str, Any] = {"viewport": WIDE, "permissions": ["clipboard-read"], "locale": "en"}
    with opened(browser, url, **options) as tab:
        yield tab
        assert tab.outside == []
        assert tab.errors == []


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    browser: Browser, url: str, name: str, tmp_path: Path
) -> None:
    """Wide, light and English; then narrow, dark and Chinese. The screenshots are kept."""
    for viewport, locale, theme in ((WIDE, "en", "light"), (NARROW, "zh-CN", "dark")):
        options: dict[str, Any] = {"viewport": viewport, "locale": locale, "color_scheme": theme}
        with opened(browser, url, **options) as tab:
            tab.open(PAGES[name])
            tab.page.screenshot(path=tmp_path / f"{name}-{theme}.png")
            assert tab.violations() == []
            assert tab.overflow <= 0
            assert tab.outside == []
            assert tab.errors == []


def test_axe_would_find_a_fault(tab: Tab) -> None:
    tab.open("/")
    tab.page.evaluate("document.documentElement.removeAttribute('lang')")
    tab.page.evaluate("document.body.style.color = '#ddd'")
    assert {"color-contrast", "html-has-lang"} <= {rule for rule, _ in tab.violations()}


def test_search_and_filter(tab: Tab) -> None:
    tab.open("/")
    assert tab.page.locator(".repos li").count() == 5
    tab.page.get_by_label("Search").fill("tiny")
    tab.page.get_by_label("Search").press("Enter")
    tab.page.wait_for_url("**q=tiny**")
    assert tab.page.locator(".repos li").all_inner_texts()[0].startswith("Org/Tiny")
    tab.open("/")
    tab.page.get_by_label("Task").select_option("fill-mask")
    tab.page.wait_for_url("**task=fill-mask**")
    assert tab.page.locator(".repos li").count() == 1
    tab.page.get_by_role("link", name="Reset").click()
    assert tab.page.locator(".repos li").count() == 5


def test_copy_a_command(tab: Tab) -> None:
    tab.open("/Org/Tiny")
    box = tab.page.locator(".use details").first
    box.get_by_role("button", name="Copy").click()
    box.get_by_role("button", name="Copied").wait_for()
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert copied == f"export HF_ENDPOINT={tab.url}\nvllm serve Org/Tiny"


def test_follow_the_links_of_a_card(tab: Tab) -> None:
    tab.open("/Org/Tiny")
    assert "(https://example.com/x)" in tab.text
    assert tab.page.locator(".card img").evaluate("one => one.naturalWidth") == 320
    tab.page.get_by_role("link", name="how to start").click()
    assert tab.page.url.endswith("#card-quick-start")
    assert tab.page.locator(":target").inner_text() == "Quick start"
    tab.page.get_by_role("link", name="licence").click()
    assert "Apache License" in tab.text
    tab.page.go_back()
    tab.page.get_by_role("link", name="the base").click()
    assert tab.page.url == f"{tab.url}/Org/Base"


def test_switch_the_language_and_the_theme(tab: Tab) -> None:
    tab.open("/")
    tab.page.get_by_role("link", name="中文").click()
    assert "模型" in tab.text
    tab.page.get_by_role("link", name="深色主题").click()
    tab.open("/Org/Tiny")
    assert "使用此模型" in tab.text
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 23, 28)"


def test_everything_works_without_javascript(browser: Browser, url: str) -> None:
    with opened(browser, url, java_script_enabled=False, viewport=WIDE, locale="en") as tab:
        tab.open("/")
        tab.page.get_by_label("Task").select_option("fill-mask")
        tab.page.get_by_role("button", name="Show").click()
        assert tab.page.locator(".repos li").count() == 1
        tab.page.get_by_role("link", name="中文").click()
        assert tab.page.locator("h1").inner_text() == "本镜像中的模型"
        tab.open("/Org/Tiny")
        tab.page.locator("summary", has_text="transformers").click()
        assert tab.page.get_by_text("AutoTokenizer").is_visible()
        assert tab.page.get_by_role("button", name="复制").count() == 0


def test_the_keyboard_is_enough(tab: Tab) -> None:
    tab.open("/Org/Tiny")
    press = tab.page.keyboard.press
    press("Tab")
    assert tab.page.locator(":focus").inner_text() == "Skip to the content"
    press("Enter")
    for _ in range(40):
        press("Tab")
        if tab.page.locator(":focus").inner_text() == "transformers":
            break
    press("Enter")
    assert tab.page.get_by_text("AutoTokenizer.from_pretrained").is_visible()
    press("Tab")
    press("Tab")
    assert tab.page.locator(":focus").inner_text() == "Copy"
    outline = "one => getComputedStyle(one).outlineStyle"
    assert tab.page.locator(":focus").evaluate(outline) != "none"


def test_a_hostile_card_does_nothing(tab: Tab) -> None:
    tab.open("/Other/hostile")
    tab.page.wait_for_timeout(500)
    assert tab.page.title().startswith("Other/hostile")
    assert tab.page.url == f"{tab.url}/Other/hostile"
    assert (
        tab.page.locator("main iframe, main form, main script, main style, main svg").count() == 0
    )
    tab.page.get_by_role("link", name="Files").click()  # nothing covers it
    tab.page.wait_for_url("**/tree/main")


def test_a_pull_is_seen_while_it_runs(tab: Tab, hub: Path) -> None:
    with RunningPull(hub, Repo.parse("Org/Large"), "main", COMMIT, 10_000_000) as pull:
        tab.open("/-/status")
        assert "Org/Large" in tab.text
        pull.advance(4_000_000)
        tab.page.get_by_text("4.0 MB / 10.0 MB").wait_for()
    tab.page.get_by_text("Running now").wait_for(state="detached")


def test_many_repositories(browser: Browser, tmp_path: Path) -> None:
    """They are read once; then the first page, a search and the last page answer soon."""
    hub = tmp_path / "hub"
    for number in range(2_000):
        folder = hub / f"models--Org{number % 50}--Model-{number}"
        (folder / "snapshots" / COMMIT).mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)
        (folder / "snapshots" / COMMIT / "config.json").write_text("{}")
    state = State(tmp_path / "state")
    with contextlib.closing(Digests(state)) as digests:
        source = HfCache(hub, digests, managed=False)
        with run_server(create_app(FirstFound([source]), state)) as url:
            httpx2.get(f"{url}/api/models?limit=1", timeout=110)
            with opened(browser, url, viewport=WIDE, locale="en") as tab:
                tab.open("/")
                assert "2000 of 2000" in tab.text
                tab.open("/?q=model-1999")
                assert tab.page.locator(".repos li").count() == 1
                tab.open("/?page=67")
                assert "Page 67 of 67" in tab.text
                assert tab.overflow <= 0


def test_sign_in_and_out(browser: Browser, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    add(hub, "Org/Closed", {"README.md": b"# Closed", "w.safetensors": make_safetensors({})})
    proxy = ProxySettings(signer=Signer(TOKEN))
    with served(hub, proxy=proxy) as url, opened(browser, url, locale="en") as tab:
        tab.open("/Org/Closed")
        assert tab.violations() == []
        tab.page.get_by_label("Token").fill("wrong")
        tab.page.get_by_role("button", name="Sign in").click()
        assert "The token is wrong" in tab.text
        tab.page.get_by_label("Token").fill(TOKEN)
        tab.page.get_by_role("button", name="Sign in").click()
        tab.page.wait_for_url("**/Org/Closed")
        assert "Use this model" in tab.text
        assert tab.page.evaluate("document.cookie") == ""
        tab.page.get_by_role("button", name="Sign out").click()
        tab.page.get_by_label("Token").wait_for()
        tab.open("/Org/Closed")
        assert tab.page.get_by_label("Token").is_visible()
