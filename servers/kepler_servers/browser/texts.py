"""The texts of the pages in all languages, from the catalogue `texts.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Language = Literal["en", "de", "zh"]

LANGUAGES: dict[Language, str] = {"en": "English", "de": "Deutsch", "zh": "中文"}
"""Name of each language in the language itself, by language code."""

HTML_LANGUAGES: dict[Language, str] = {"en": "en", "de": "de", "zh": "zh-Hans"}
"""Values of the HTML attribute `lang` (BCP 47), by language code."""

DEFAULT_LANGUAGE: Language = "en"

_MAX_HEADER_CHARACTERS = 1000
_RANGE = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9]{1,8})*\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?")


@cache
def catalogue() -> Mapping[str, Mapping[str, str]]:
    """Return the texts by key and language. The file is read at the first call."""
    return tomllib.loads(files(__package__).joinpath("texts.toml").read_text("utf-8"))


def text(key: str, language: Language, **values: Any) -> str:
    """Return the text for a key in a language. `values` replaces the names in braces."""
    template = catalogue()[key][language]
    return template.format_map(values) if values else template


def language_named(name: str) -> Language | None:
    """Return the language with this code; None if there are no texts in this language."""
    return next((language for language in LANGUAGES if language == name), None)


def accepted_language(header: str) -> Language:
    """Return the language that the value of a header Accept-Language prefers (RFC 9110, section 12.5.4).

    The result is `DEFAULT_LANGUAGE` if the header names none of the languages of the pages. Malformed parts of the
    header are ignored.
    """
    best: tuple[float, Language] = 0.0, DEFAULT_LANGUAGE
    for part in header[:_MAX_HEADER_CHARACTERS].split(","):
        match = _RANGE.fullmatch(part)
        language = language_named(match[1].lower()) if match else None
        if match is not None and language is not None:
            weight = 1.0 if match[2] is None else float(match[2])
            if weight > best[0]:
                best = weight, language
    return best[1]
