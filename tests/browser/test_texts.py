"""Tests of the catalogue of translated texts, and of the choice of a page's language."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import ROOT

from kepler_servers.browser.texts import LANGUAGES, accepted_language, catalogue, text

SERVERS = ROOT / "servers" / "kepler_servers"
TEMPLATES = SERVERS / "browser" / "templates"
LITERAL = re.compile(r'"([a-z][A-Za-z_]*)"')
PREFIX = re.compile(r'"([a-z][a-z_]*_)" ?[~,]')
"""Matches the constant first part of a text's key. The template adds the rest, e.g. `"split_" ~ name`."""
CALL = re.compile(r'\bt\("([A-Za-z_]+)"(?! ~)')


def sources() -> list[Path]:
    return [*TEMPLATES.iterdir(), *SERVERS.rglob("*.py")]


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_every_text_has_all_languages_with_the_same_placeholders() -> None:
    assert len(catalogue()) > 200
    for key, texts in catalogue().items():
        assert texts.keys() == LANGUAGES.keys(), key
        assert all(words.strip() == words != "" for words in texts.values()), key
        assert len({frozenset(placeholders(words)) for words in texts.values()}) == 1, key


def test_every_key_is_used_and_every_used_key_exists() -> None:
    content = {path: path.read_text() for path in sources()}
    literals = {key for words in content.values() for key in LITERAL.findall(words)}
    prefixes = tuple({prefix for words in content.values() for prefix in PREFIX.findall(words)})
    unused = {key for key in catalogue() if key not in literals and not key.startswith(prefixes)}
    assert unused == set()
    called = {key for path, words in content.items() if path.suffix == ".j2" for key in CALL.findall(words)}
    assert called - catalogue().keys() == set()


@pytest.mark.parametrize("prefix", ["split_", "flag_", "job_", "match_", "kind_", "place_", "stage_", "health_"])
def test_prefixes_have_texts_for_every_value(prefix: str) -> None:
    from kepler_core.honesty.document import SPLIT_NAMES
    from kepler_core.honesty.flags import EXPLANATIONS
    from kepler_servers.offline_trainer.job import STATES

    values = {
        "split_": SPLIT_NAMES, "flag_": EXPLANATIONS, "job_": STATES, "health_": ("ok", "degraded"),
        "match_": ("given", "exact", "nearest", "unknown", "any"), "kind_": ("measured", "model", "formula"),
        "place_": ("path", "query", "header"),
        "stage_": ("reading", "preparing", "fitting", "publishing", "packing"),
    }[prefix]  # fmt: skip
    assert {prefix + value for value in values} <= catalogue().keys()


def test_values_are_put_into_a_text() -> None:
    assert text("rows_of", "de", first=1, last=2, total=3) == "1 bis 2 von 3"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,en;q=0.5", "de"),
        ("fr, zh-CN;q=0.8, en;q=0.9", "en"),
        ("zh-Hans-CN", "zh"),
        ("de;q=0, zh;q=0.1", "zh"),
        ("fr", "en"),
        ("*", "en"),
        ("de;q=x, zh", "zh"),
    ],
)
def test_the_language_that_a_browser_prefers(header: str, language: str) -> None:
    assert accepted_language(header) == language


@given(st.text())
def test_any_header_gives_a_language(header: str) -> None:
    assert accepted_language(header) in LANGUAGES
