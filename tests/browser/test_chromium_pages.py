"""Tests of all pages in a real browser: main paths, keyboard, contrast, narrow windows, languages, and no scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import CHECK, Visitor, browsing, visiting
from support.meter_process import SensorMachine, running_meter
from support.page_store import make_store
from support.server_process import ServerProcess, free_port, serving
from support.trainer_server import TrainerServer, request, training

MODEL = "/ui/models/good/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0"
SELECTION = "/ui/select?output_type=AbsPower&metrics=bpf_cpu_time_ms,bpf_page_cache_hit&processor=made_up&cores=64"
PATHS = {
    "pipelines": "/", "pipeline": "/ui/pipelines/good", "models": "/ui/models", "model": MODEL, "select": SELECTION,
    "machines": "/ui/machines?cores=64", "health": "/ui/health", "api": "/docs",
    "hostile": "/ui/models?pipeline=hostile",
}  # fmt: skip
WINDOWS: dict[str, dict[str, Any]] = {
    "wide": {},
    "narrow-dark-de": {"width": 400, "dark": True, "locale": "de-DE"},
    "dark-zh": {"dark": True, "locale": "zh-CN"},
    "narrow": {"width": 400},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("browser")
    make_store(folder / "store")
    with serving(folder / "store", folder / "server.log") as process:
        yield process


def origin(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("window", WINDOWS)
def test_every_page_can_be_used_by_everybody(browser: Any, server: ServerProcess, window: str) -> None:
    with visiting(browser, origin(server.port), **WINDOWS[window]) as visitor:
        for name, path in PATHS.items():
            visitor.visit(path)
            if name == "model":
                visitor.window.wait_for_selector("#live figure svg")
            visitor.check(f"{name}-{window}")


def test_the_checks_find_faults(browser: Any, server: ServerProcess) -> None:
    with visiting(browser, origin(server.port), width=400) as visitor:
        visitor.visit("/ui/select")
        visitor.window.evaluate("""() => {
            document.documentElement.removeAttribute("lang");
            document.querySelector("label").remove();
            document.querySelector("h1").outerHTML = "<h4>title</h4><img><table><tr><td>1</td></tr></table>";
            document.querySelector("button").textContent = "";
            const text = document.querySelector("legend");
            text.style.color = "#999";
            const wide = document.createElement("p");
            wide.style.width = "900px";
            wide.textContent = "wide";
            document.querySelector("main").append(wide);
        }""")
        found = " / ".join(visitor.window.evaluate(CHECK))
        for fault in (
            "no language", "no label", "a heading of level 4 after level 0", "not one first heading",
            "no alternative text",
            "a table without a caption", "a header without a scope", "no name: button", "contrast 2.8", "pixels wide",
        ):  # fmt: skip
            assert fault in found, found


def test_from_a_question_to_the_model(browser: Any, server: ServerProcess) -> None:
    """Go from the first page to the selected model, as a person does: click on links, and type into the form."""
    with visiting(browser, origin(server.port)) as visitor:
        window = visitor.window
        visitor.visit("/")
        window.get_by_role("link", name="Which model would a node get, and why?").click()
        window.get_by_label("Processor").fill("made_up")
        window.get_by_label("Cores").fill("32")
        window.get_by_label("Chips").fill("2")
        window.get_by_label("Memory (GiB)").fill("128")
        window.keyboard.press("Enter")
        window.wait_for_selector("#result")
        assert "The machine is equal to the machine of this node type" in window.inner_text("main")
        assert window.get_by_label("Processor").input_value() == "made_up"
        visitor.check("selected")
        window.locator("#result").get_by_role("link", name="SGDRegressorTrainer_0").click()
        window.wait_for_selector("#live figure svg polygon.band")
        assert "SGDRegressorTrainer_0" in window.title()
        with window.expect_download() as download:
            window.get_by_role("link", name="Model as a zip archive").click()
        assert download.value.suggested_filename == "SGDRegressorTrainer_0.zip"
        window.get_by_role("link", name="Deutsch").click()
        assert window.get_by_role("heading", name="Leistungskurve").is_visible()
        assert visitor.complaints == []


def test_the_keyboard_reaches_everything_and_the_focus_is_seen(browser: Any, server: ServerProcess) -> None:
    with visiting(browser, origin(server.port)) as visitor:
        for path in ("/ui/models?pipeline=good", SELECTION):
            visitor.visit(path)
            names = visitor.tab_through()
            assert "Skip to the content" in names[0]
            assert any("BUTTON" in name for name in names)
        visitor.window.keyboard.press("Home")
        visitor.visit("/")
        visitor.window.keyboard.press("Tab")
        visitor.window.keyboard.press("Enter")
        assert visitor.window.evaluate("document.activeElement.id") == "main"


def test_pages_work_without_scripts(browser: Any, server: ServerProcess) -> None:
    with visiting(browser, origin(server.port), scripts=False) as visitor:
        visitor.visit(MODEL)
        assert "load the page again" in visitor.window.locator("noscript").first.inner_text()
        visitor.visit("/ui/models")
        visitor.window.get_by_label("Trainer").select_option("LinearRegressionTrainer")
        visitor.window.get_by_role("button", name="Show").click()
        assert "1 models." in visitor.window.inner_text("main")


def test_the_jobs_page_follows_a_training(browser: Any, tmp_path: Path) -> None:
    with training(tmp_path, "--fits", "1") as trainer, visiting(browser, origin(trainer.port)) as visitor:
        visitor.visit("/")
        assert "There are no jobs here." in visitor.window.inner_text("main")
        job = trainer.submit(request(name="seen"))
        visitor.visit("/")
        visitor.window.get_by_role("link", name=job.removeprefix("/jobs/")[:8], exact=True).click()
        visitor.check("job-early")
        # The test does not load the page again: the page's own script must update the page.
        visitor.window.wait_for_selector("#live[data-seconds='0']", timeout=180_000)
        text = visitor.window.inner_text("main")
        assert "done" in text
        assert "LinearRegressionTrainer" in text
        assert "2 of 2 models" in text
        visitor.check("job-done")
        with visitor.window.expect_download() as download:
            visitor.window.get_by_role("link", name="Pipeline as a zip archive").click()
        assert download.value.suggested_filename == "seen.zip"
        visitor.visit("/")
        visitor.check("jobs")
        visitor.visit("/docs")
        visitor.check("trainer-api")


def test_a_browser_asks_for_the_token(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-token")
    with training(tmp_path, "--token-file", str(tmp_path / "token")) as trainer:
        context = browser.new_context(http_credentials={"username": "any", "password": "secret-token"})
        try:
            visitor = Visitor(context.new_page(), origin(trainer.port))
            visitor.visit("/")
            assert "There are no jobs here." in visitor.window.inner_text("main")
        finally:
            context.close()


def test_the_meter_shows_the_watts_of_this_moment(browser: Any, tmp_path: Path) -> None:
    machine = SensorMachine(tmp_path / "root", 42.0)
    port = free_port()
    arguments = ("-o", "powercap", "-o", "prometheus", "--metrics-port", str(port))
    with (
        running_meter(machine.root, tmp_path / "tree", *arguments),
        visiting(browser, origin(port), width=400, dark=True) as visitor,
    ):
        visitor.visit("/")
        visitor.window.locator(".watts", has_text="42.0 W").wait_for()
        visitor.check("meter")
        machine.set(55.0)
        visitor.window.locator(".watts", has_text="55.0 W").wait_for()
        assert visitor.complaints == []


def test_a_page_reports_that_the_server_does_not_answer(browser: Any, tmp_path: Path) -> None:
    trainer = TrainerServer(tmp_path / "store", tmp_path / "server.log", "--state", str(tmp_path / "state"))
    try:
        trainer.wait_ready()
        with visiting(browser, origin(trainer.port)) as visitor:
            visitor.visit("/")
            assert not visitor.window.locator("#live-stopped").is_visible()
            trainer.stop()
            visitor.window.wait_for_selector("#live-stopped", state="visible")
    finally:
        trainer.stop()
