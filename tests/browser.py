"""A real browser for tests: headless Chromium, with what it complains of, and axe-core's look at how accessible a page is."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import servers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page, Request

CHROMIUM = Path("/usr/bin/chromium")
INSTALL = "apt-get install --no-install-recommends chromium, and pip install '.[test]'"
PHONE, DESKTOP = (390, 844), (1280, 900)


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, until the block ends. Skips where it is not installed, and fails where `CI` is set."""
    if not CHROMIUM.exists() or not importlib.util.find_spec("playwright"):
        servers.missing(f"needs Chromium and Playwright: {INSTALL}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()


@dataclass
class Tab:
    """A page of the browser; `said` is what its console and its dialogs said, and what it asked a network for."""

    page: Page
    said: list[str] = field(default_factory=list)

    def open(self, path: Path | str) -> Tab:
        """Show a file, or a URL."""
        self.page.goto(path.as_uri() if isinstance(path, Path) else path)
        return self

    def text(self, selector: str) -> str:
        """The text of the first element that the selector finds."""
        return self.page.locator(selector).first.inner_text()

    def ask(self, expression: str, argument: object = None) -> Any:
        """What a JavaScript expression gives."""
        return self.page.evaluate(expression, argument)

    def complaints(self) -> list[str]:
        """What axe-core finds: the rule, and the first elements that break it."""
        self.ask(AXE.read_text("utf-8"))
        found = self.ask("axe.run(document, {resultTypes: ['violations'], preload: false})")
        return [f"{one['id']}: {[node['html'][:160] for node in one['nodes'][:3]]}" for one in found["violations"]]

    def dismiss(self, dialog: Dialog) -> None:
        """Close what a page asks, which none should."""
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def note_request(self, request: Request) -> None:
        """Note what is fetched from elsewhere, which nothing should be."""
        if request.url.startswith(("http:", "https:")) and "127.0.0.1" not in request.url:
            self.said.append(f"asked {request.url}")

    @property
    def overflow(self) -> int:
        """By how many pixels the whole page is wider than the window."""
        return int(self.ask("document.scrollingElement.scrollWidth - window.innerWidth"))


@contextmanager
def tab(running: Browser, size: tuple[int, int] = DESKTOP, theme: str = "light", scripts: bool = True) -> Iterator[Tab]:
    """A page of this size (pixels) in this theme, with scripts or without."""
    context = running.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if theme == "dark" else "light",
        java_script_enabled=scripts,
    )
    found = Tab(context.new_page())
    found.page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
    found.page.on("pageerror", lambda error: found.said.append(f"error: {error}"))
    found.page.on("dialog", found.dismiss)
    found.page.on("request", found.note_request)
    try:
        yield found
    finally:
        context.close()


def _axe() -> Path:
    spec = importlib.util.find_spec("axe_playwright_python")
    return Path(spec.origin or "").with_name("axe.min.js") if spec else Path("axe.min.js")


AXE = _axe()
