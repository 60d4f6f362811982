"""Property tests: any metadata, decision or request gives a page, and HTML in these values is escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_pipelines import SmallModel, catalogue

from kepler_servers.browser.curve import Curve
from kepler_servers.browser.model_browser import SITE
from kepler_servers.browser.pages.model_facts import ModelFacts
from kepler_servers.browser.rendering import number, short_number, shown
from kepler_servers.browser.view import View
from kepler_servers.http.answer import HttpError

TEXTS = st.text() | st.sampled_from(["<script>alert(1)</script>", "\"'><img src=x>", "{{ 7 * 7 }}", "\u202e", "\x00"])
NUMBERS = st.integers() | st.sampled_from([10**400, -(10**400)]) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
(MODEL,) = catalogue(SmallModel()).models
KNOWN_KEYS = ("package_mae", "dram_mape", "lineage", "mae", "honesty")
RENDERED = settings(max_examples=30)
"""Settings of Hypothesis: fewer examples than the default of 100, because rendering a page takes milliseconds."""


class Elements(HTMLParser):
    """Parser that fails if a page has HTML that can only come from a value, e.g. an image or an `on…` attribute."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "img"
        assert tag != "script" or [name for name, _ in attrs] == ["src", "defer"]
        assert not any(name.startswith("on") for name, _ in attrs)


def checked(page: bytes) -> str:
    text = page.decode()
    Elements().feed(text)
    assert "\u202e" not in text
    assert "\x00" not in text
    return text


@RENDERED
@given(st.dictionaries(st.sampled_from(KNOWN_KEYS), JSON))
def test_a_model_with_any_metadata(metadata: dict[str, Any]) -> None:
    facts = ModelFacts(MODEL, metadata, None, "")
    view = View.of(SITE, {})
    answer = view.answer("model.html.j2", facts=facts, curve=Curve(reason="none"), drawing=None, seconds=0)
    assert isinstance(answer.body, bytes)
    checked(answer.body)


@RENDERED
@given(
    st.lists(st.dictionaries(st.sampled_from(["time", "trigger", "decision", "version", "reason"]), JSON), max_size=3)
)
def test_a_pipeline_with_any_decisions(decisions: list[dict[str, Any]]) -> None:
    answer = View.of(SITE, {}).answer(
        "pipeline.html.j2", name="p", problem=None, store_problem="", served=1, current=1, versions=[1],
        decisions=decisions, total=0, models=[], node_types=0, has_report=True,
    )  # fmt: skip
    assert isinstance(answer.body, bytes)
    checked(answer.body)


@RENDERED
@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_an_error_page_for_any_request(message: str, query: str, language: str, host: str) -> None:
    environ = {"PATH_INFO": "/", "QUERY_STRING": query, "HTTP_ACCEPT_LANGUAGE": language, "HTTP_HOST": host}
    answer = SITE.error_page(HttpError(400, message), environ)
    assert isinstance(answer.body, bytes)
    checked(answer.body)


@given(TEXTS)
def test_links_of_any_path_stay_on_the_server(path: str) -> None:
    view = View.of(SITE, {"PATH_INFO": "/ui/models/" + path.encode().decode("latin-1")})
    for _, _, url, _ in view.language_links():
        assert re.fullmatch(r"/ui/models/[\x21-\x7e]*", url)
        assert not set(url) & set("<>\"'")


@pytest.mark.parametrize("show", [number, short_number])
@given(value=JSON)
def test_any_value_is_shown_as_a_number_or_a_dash(show: Any, value: Any) -> None:
    assert re.fullmatch(r"–|-?[0-9,.]+(e[+-][0-9]+)?", show(value))


@given(JSON)
def test_any_value_is_shown_as_a_text_of_bounded_length(value: Any) -> None:
    assert len(shown(value)) <= 200
