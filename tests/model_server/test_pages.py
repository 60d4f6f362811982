"""Tests of the model server's pages over HTTP: contents, languages, escaping, headers, errors."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
from support.page_store import LONG, QUOTES, REPORT, SCRIPT, make_store
from support.process import wait_for
from support.server_process import Answer, ServerProcess, serving

MODEL = "/ui/models/good/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0"
PAGES = ("/", "/ui/pipelines/good", "/ui/models", MODEL, "/ui/select", "/ui/machines", "/ui/health", "/docs")
SELECTION = (
    "/ui/select?output_type=AbsPower&metrics=bpf_cpu_time_ms,bpf_page_cache_hit&cores=32&chips=2&memory=128"
    "&processor=made_up"
)
CURVE_PATIENCE = 90.0
"""Time to wait for a power curve, in seconds. The process that computes the curve starts slowly on a busy machine."""
LOADING = ("img", "iframe", "style", "object", "embed", "base", "video", "audio", "use", "image")
"""HTML elements that no page contains, because they load resources or change how the page looks."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("pages")
    make_store(folder / "store")
    with serving(folder / "store", folder / "server.log") as process:
        yield process


class _Checker(HTMLParser):
    """Collects the tags of a page, and checks that tags are closed in the right order."""

    VOID = ("meta", "link", "input", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in LOADING
        names = [name for name, _ in attrs]
        assert not any(name.startswith("on") or name == "style" for name in names), attrs
        if tag == "script":
            assert (dict(attrs)["src"] or "").startswith("/ui/assets/"), attrs
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Ignore elements of SVG that close themselves, e.g. `<path/>`."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked_page(answer: Answer, status: int = 200) -> tuple[str, list[str]]:
    """Check the headers and the HTML of a page. Return its text and its links."""
    assert answer.status == status, answer.body[:2000]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    page = answer.body.decode()
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in checker.links), checker.links
    return " ".join(" ".join(checker.text).split()), checker.links


@pytest.mark.parametrize("path", [*PAGES, SELECTION])
@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_pages_in_every_language(server: ServerProcess, path: str, language: str) -> None:
    answer = server.get(f"{path}{'&' if '?' in path else '?'}lang={language}")
    checked_page(answer)
    assert f'<html lang="{"zh-Hans" if language == "zh" else language}">'.encode() in answer.body
    # the links keep the chosen language
    assert f'href="/ui/machines?lang={language}"'.encode() in answer.body


def test_the_browser_chooses_the_language(server: ServerProcess) -> None:
    answer = server.ask("GET", "/", headers={"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert b'<html lang="zh-Hans">' in answer.body
    assert answer.headers["vary"] == "Accept-Language"
    assert b'href="/ui/machines"' in answer.body
    assert "流水线".encode() in answer.body


def test_every_link_leads_somewhere(server: ServerProcess) -> None:
    seen: set[str] = set()
    waiting = ["/"]
    while waiting:
        path = waiting.pop().partition("#")[0]
        if not path or path in seen or "lang=" in path:
            continue
        seen.add(path)
        answer = server.get(path)
        assert answer.status == 200, path
        if answer.headers["content-type"].startswith("text/html") and not path.endswith("/report"):
            waiting += checked_page(answer)[1]
    assert {*PAGES, "/metrics", "/openapi.json", "/ui/pipelines/good/report"} <= seen
    assert any(path.endswith(".zip") for path in seen)


def test_pipelines(server: ServerProcess) -> None:
    text, _ = checked_page(server.get("/"))
    assert "Power models that this server serves: 5. Pipelines: 3." in text
    assert "File is not a zip file" in text
    text, _ = checked_page(server.get("/ui/pipelines/good"))
    assert "Models: 2. Node types: 1. Served version: 2." in text
    assert "2 current served 1" in text
    assert "2026-01-02T03:04:05 drift published 2 1 fit" in text


def test_a_report_is_shown_without_its_scripts(server: ServerProcess) -> None:
    answer = server.get("/ui/pipelines/good/report")
    assert (answer.status, answer.body) == (200, REPORT)
    policy = answer.headers["content-security-policy"].split("; ")
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert not any(directive.startswith(("script-src", "connect-src")) for directive in policy)
    assert b"/report" not in server.get("/ui/pipelines/hostile").body
    for pipeline, message in (("hostile", "has no report"), ("absent", "is served")):
        text, _ = checked_page(server.get(f"/ui/pipelines/{pipeline}/report"), 404)
        assert message in text


def test_a_model_with_its_curve(server: ServerProcess) -> None:
    assert b'data-seconds="' in server.get(MODEL).body
    wait_for(lambda: b'data-seconds="0"' in server.get(MODEL).body, "the curve was not computed", CURVE_PATIENCE)
    text, links = checked_page(server.get(MODEL))
    assert "processors: 50.1 W to 165.3 W" in text
    assert "Blocks of time processors 5 2.00 4.00 -0.50 0.25 4.00" in text
    assert "Other kinds of work (highest error)" in text
    assert "Another recording never measured" in text
    assert "Recordings: 1, days: 1, nodes: 1, samples: 500." in text
    assert f"/models{MODEL.removeprefix('/ui/models')}.zip" in links
    assert server.get(f"/models{MODEL.removeprefix('/ui/models')}.zip").status == 200


def test_the_list_of_models_is_filtered_and_keeps_the_form(server: ServerProcess) -> None:
    page = server.get("/ui/models?pipeline=good&trainer=LinearRegressionTrainer&filter=mae:5")
    text, _ = checked_page(page)
    assert "1 models." in text
    assert b'<option value="good" selected>' in page.body
    assert b'value="mae:5"' in page.body


def test_the_selection_is_that_of_post_model(server: ServerProcess) -> None:
    body = server.get(SELECTION).body.decode()
    command = html.unescape(re.search(r"<pre[^>]*>(.*?)</pre>", body, re.DOTALL)[1])  # type: ignore[index]
    request = json.loads(re.search(r"-d '(.*)' ", command)[1])  # type: ignore[index]
    selection = server.post(request, "/model?explain=1").json()["selection"]
    text, links = checked_page(server.get(SELECTION))
    assert f"/ui/models/{selection['pipeline']}/{selection['model']}" in links
    assert selection["node_type"]["match"] == "exact"
    assert "The machine is equal to the machine of this node type: Node type 0" in text
    assert selection["error"]["compared_by"] in text
    for drop in selection["candidates"]["dropped"]:
        assert str(drop["count"]) in text
    assert "all models – 5" in text


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("output_type=Abs", 400, "unknown output type 'Abs'; did you mean AbsPower?"),
        ("output_type=AbsPower&cores=many", 400, "machine_spec.cores: 'many' is not a number"),
        ("output_type=AbsPower&metrics=cpu", 200, "no model fits the available features; missing:"),
        ("output_type=AbsPower&source=nope", 400, "unknown energy source 'nope'"),
        ("output_type=DynPower&metrics=bpf_cpu_time_ms", 200, "no model of output type 'DynPower'"),
    ],
)
def test_a_selection_without_a_model_states_why(server: ServerProcess, query: str, status: int, message: str) -> None:
    text, _ = checked_page(server.get(f"/ui/select?{query}"), status)
    assert message in text


def test_machines_are_compared(server: ServerProcess) -> None:
    text, _ = checked_page(server.get("/ui/machines?processor=made_up&cores=32&chips=2&memory=128"))
    assert "1.000" in text
    text, _ = checked_page(server.get("/ui/machines?cores=x"), 400)
    assert "machine_spec.cores: 'x' is not a number" in text


def test_all_endpoints_are_described(server: ServerProcess) -> None:
    text, _ = checked_page(server.get("/docs"))
    document = server.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path}" in text
            assert operation["summary"] in text
            for parameter in operation.get("parameters", ()):
                assert parameter["description"] in text
    for name in document["components"]["schemas"]:
        assert name in text
    assert f"curl http://127.0.0.1:{server.port}/healthz" in text
    assert not any(path.startswith("/ui") or path in ("/", "/docs") for path in document["paths"])


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/ui/pipelines/nope", 404, "no pipeline 'nope' is served"),
        ("/ui/models/good/a/b/c/d", 404, "no model 'a/b/c/d' in pipeline 'good'"),
        ("/ui/models?offset=-1", 400, "offset: '-1' is not a whole number"),
        ("/ui/models?pipelin=x", 400, "unknown parameter; known: lang, pipeline"),
        ("/ui/models?filter=what", 400, "filter"),
        ("/?lang=fr", 400, "unknown lang 'fr'"),
        ("/?lang=%ff", 400, "not UTF-8"),
        ("/ui/assets/nope", 404, "no asset 'nope'"),
        ("/ui/models?pipeline=" + quote(SCRIPT + QUOTES), 200, "0 models."),
        ("/ui/select?output_type=" + quote(SCRIPT), 400, "unknown output type '<script>alert(1)</script>'"),
        ("/ui/select?lang=de&metrics=" + "x" * 20000, 200, "Merkmale"),
    ],
)
def test_errors_are_pages(server: ServerProcess, path: str, status: int, message: str) -> None:
    text, _ = checked_page(server.get(path), status)
    assert message in text


def test_an_error_is_shown_in_the_language_of_the_browser(server: ServerProcess) -> None:
    answer = server.ask("GET", "/ui/pipelines/nope", headers={"Accept-Language": "de"})
    assert "Diese Seite kann nicht gezeigt werden" in checked_page(answer, 404)[0]


def test_names_of_a_hostile_store_are_only_text(server: ServerProcess) -> None:
    paths = [
        link for link in checked_page(server.get("/ui/models?pipeline=hostile"))[1] if "/ui/models/hostile" in link
    ]
    assert len(paths) == 3
    for path in [*paths, "/ui/machines", "/ui/pipelines/good", "/ui/select", "/ui/models"]:
        answer = server.get(path)
        text, _ = checked_page(answer)
        assert "\u202e" not in text
        assert LONG not in text
        assert len(answer.body) < 60_000
    model = checked_page(server.get(next(path for path in paths if "img" in path)))[0]
    assert f"{QUOTES}_0" in model
    assert "honesty" in model


def test_pages_can_only_be_read(server: ServerProcess) -> None:
    before = server.get("/healthz").json()
    for path in PAGES:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert server.ask(method, path, b"{}").status in (404, 405), (method, path)
        for form in re.findall(r"<form[^>]*>", server.get(path).body.decode()):
            assert 'method="get"' in form
    assert server.get("/healthz").json() == before


def test_files_of_the_pages(server: ServerProcess) -> None:
    page = server.get("/").body.decode()
    names = re.findall(r"/ui/assets/([a-z.]+)\?v=[0-9a-f]{12}", page)
    assert sorted(names) == ["icon.svg", "live.js", "style.css"]
    types = {"icon.svg": "image/svg+xml", "live.js": "text/javascript", "style.css": "text/css"}
    weight = len(page.encode())
    for name in names:
        answer = server.get(f"/ui/assets/{name}")
        assert answer.headers["content-type"] == f"{types[name]}; charset=utf-8"
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        weight += len(answer.body)
    assert weight < 30_000


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("kepler_servers.model_server.worker", {"jinja2"}),
        ("kepler_servers.offline_trainer.worker", {"jinja2"}),
        ("kepler_servers.meter.prometheus_output", {"jinja2", "bottle", "kepler_servers.browser"}),
    ],
)
def test_servers_without_visitors_do_not_import_what_only_pages_need(module: str, missing: set[str]) -> None:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not missing & set(process.stdout.split())


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path / "store", tmp_path / "server.log", ready_path="/healthz") as process:
        text, _ = checked_page(process.get("/"))
        assert "The store has no pipeline yet." in text
        assert "kepler-model train" in text
        for path in ("/ui/models", "/ui/machines", "/ui/health", "/ui/select?output_type=AbsPower"):
            checked_page(process.get(path))
