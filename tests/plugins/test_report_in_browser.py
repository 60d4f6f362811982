"""Test the tables of the report's pages in Chromium: sorting and filtering by keyboard, narrow and dark screens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kepler_plugins.report.decision import decision_page

pytest.importorskip("playwright")

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

MODELS = 60


def candidate(number: int) -> dict[str, Any]:
    result = {"instants": 40, "components": {"package": {"mae": 100.0 - number, "idle_error": 0.0}}}
    kind = "recalibrated" if number % 2 else "retrained"
    path = f"rapl-sysfs/AbsPower/CounterOnly/ATrainerWithAVeryLongName{number:02}_0"
    return {"path": path, "kind": kind, "reason": "worse", "needed": 1.0, "gain": 0.0, "new": result, "served": None}


@pytest.fixture(scope="module")
def browser_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    decision = {"decision": "kept aside", "reason": "worse", "models": [candidate(number) for number in range(MODELS)]}
    retraining = {"pipeline": "mine", "decision": decision, "earlier": [], "samples": []}
    file: Path = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(decision_page(retraining))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        yield page
        assert problems == []
        assert requests == [file.as_uri()]
        browser.close()


def shown(page: Page) -> list[str]:
    """Return the text in the first cell of each visible row."""
    rows: list[str] = page.eval_on_selector_all(
        "#models tbody tr:not([hidden])", "rows => rows.map(row => row.cells[0].textContent)"
    )
    return rows


def test_the_table_is_filtered_by_keyboard(browser_page: Page) -> None:
    browser_page.focus("nav a:last-child")
    browser_page.keyboard.press("Tab")
    browser_page.keyboard.type("retrained Name0")
    assert len(shown(browser_page)) == 5
    assert browser_page.text_content("output") == f"5 of {MODELS}"
    for _ in range(len("retrained Name0")):
        browser_page.keyboard.press("Backspace")
    assert len(shown(browser_page)) == MODELS


def test_the_table_is_sorted_by_keyboard(browser_page: Page) -> None:
    header = "#models th:has(button:text-is('MAE new'))"
    browser_page.focus("input[type=search]")
    while browser_page.evaluate("document.activeElement.textContent") != "MAE new":
        browser_page.keyboard.press("Tab")
    browser_page.keyboard.press("Enter")
    assert browser_page.get_attribute(header, "aria-sort") == "ascending"
    rows = shown(browser_page)
    assert rows[0].endswith(f"Name{MODELS - 1}_0")
    browser_page.keyboard.press("Space")
    assert browser_page.get_attribute(header, "aria-sort") == "descending"
    assert shown(browser_page) == rows[::-1]


def test_the_page_is_as_wide_as_a_narrow_screen(browser_page: Page) -> None:
    width: int = browser_page.evaluate("document.documentElement.scrollWidth")
    assert width == browser_page.viewport_size["width"]  # type: ignore[index]


def test_the_page_is_dark_on_a_dark_screen(browser_page: Page) -> None:
    assert browser_page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(24, 24, 24)"
