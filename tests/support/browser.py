"""A headless Chromium that visits pages, and checks that they are accessible.

If the environment variable KEPLER_SCREENSHOTS names a folder, this folder gets a picture of each checked page.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

CHECK = (Path(__file__).parent / "accessibility.js").read_text()
"""JavaScript function that returns the problems of the page as a list of texts."""

FOCUS = """() => {
  const element = document.activeElement;
  if (element === null || element === document.body) return null;
  const style = getComputedStyle(element), box = element.getBoundingClientRect();
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  const inside = box.right > 0 && box.width > 0 && box.height > 0;
  return [element.tagName + " " + (element.id || element.textContent.trim().slice(0, 30)), outlined && inside];
}"""


def chromium() -> str:
    """Return the path of Chromium. Skip the test if Chromium or Playwright is not installed."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    return path


@attrs.define(slots=False)  # Playwright adds an attribute to the object whose methods it calls
class Visitor:
    """A browser window that records what a page must not do, such as errors of scripts and requests to other hosts."""

    window: Any
    """Playwright's object for the page in the window."""
    origin: str
    """The scheme, host and port from which pages may load files."""
    complaints: list[str] = attrs.field(factory=list)
    """Problems of a page: its console messages, script errors, dialogs, and requests to other hosts."""

    def __attrs_post_init__(self) -> None:
        self.window.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        self.window.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.window.on("request", self._check_request)
        self.window.on("dialog", self._dismiss)

    def _check_request(self, request: Any) -> None:
        if f"{urlsplit(request.url).scheme}://{urlsplit(request.url).netloc}" != self.origin:
            self.complaints.append(f"request to {request.url}")

    def _dismiss(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def visit(self, path: str, *, status: int = 200) -> None:
        """Open a page and check its status. `path` may be a URL of the same server."""
        response = self.window.goto(path if path.startswith("http") else self.origin + path)
        assert response.status == status, (path, response.status)

    def check(self, name: str) -> None:
        """Check the open page, and save a picture of it under `name` if pictures are wanted."""
        if folder := os.environ.get("KEPLER_SCREENSHOTS"):
            safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
            self.window.screenshot(path=Path(folder) / f"{safe}.png", full_page=True)
        assert self.window.evaluate(CHECK) == [], name
        assert self.complaints == [], name

    def tab_through(self) -> list[str]:
        """Press Tab until the focus leaves the page, and return the focused elements. The focus must always be visible.

        The first pressed Tab must reach the link that skips the navigation.
        """
        names: list[str] = []
        for _ in range(300):
            self.window.keyboard.press("Tab")
            focused = self.window.evaluate(FOCUS)
            if focused is None or (names and focused[0] == names[0]):
                return names
            assert focused[1], f"the focus on {focused[0]} is not seen"
            names.append(focused[0])
        raise AssertionError(f"the focus never leaves the page: {names[-5:]}")


@contextmanager
def browsing() -> Iterator[Any]:
    """Run a headless Chromium during the `with` block."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(
    browser: Any, origin: str, *, width: int = 1300, dark: bool = False, locale: str = "en-US", scripts: bool = True
) -> Iterator[Visitor]:
    """Open a window for the pages of a server, and close it at the end of the `with` block."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        locale=locale,
        java_script_enabled=scripts,
    )
    context.set_default_timeout(30_000)
    try:
        yield Visitor(context.new_page(), origin)
    finally:
        context.close()
