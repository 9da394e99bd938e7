"""A real Chromium for the tests of the pages."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page, Route, sync_playwright

CHROMIUM = shutil.which("chromium")
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; skips the test where it is not installed."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed here (Debian: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page of the browser. `outside` are the requests to other hosts, all of them blocked;
    `errors` are those of scripts and of the policy of the page."""

    page: Page
    url: str
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}{path}")

    @property
    def text(self) -> str:
        return self.page.inner_text("body")

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(script))

    def violations(self) -> list[tuple[str, list[str]]]:
        """What axe finds: rules, with the elements that break them."""
        found = Axe().run(self.page, options={"runOnly": _RULES}).response["violations"]
        return [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]


@contextlib.contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Tab]:
    """A new tab with its own cookies; `options` are those of `Browser.new_context`."""
    context = browser.new_context(**options)
    tab = Tab(context.new_page(), url)

    def route(handler: Route) -> None:
        if handler.request.url.startswith((url, "data:", "about:")):
            handler.continue_()
        else:
            tab.outside.append(handler.request.url)
            handler.abort()

    def dismiss(dialog: Dialog) -> None:
        tab.errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    context.route("**/*", route)
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("dialog", dismiss)
    tab.page.set_default_timeout(30_000)
    try:
        yield tab
    finally:
        context.close()
