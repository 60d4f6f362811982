"""Render the templates of the pages with jinja2. Every value is escaped."""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from kepler_core.messages import shortened
from kepler_servers.browser.assets import asset_url
from kepler_servers.browser.links import endpoint

SHOWN_CHARACTERS = 200
"""Maximum number of shown characters of a name or text from a store. A longer text is cut."""
_LARGE = 1e9
"""Numbers of at least this size are shown with an exponent."""
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories of invisible characters, e.g. marks that change the direction of the text after them."""


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a rendered page. Raises `jinja2.UndefinedError` if a value that the template needs is missing."""
    return _environment().get_template(template).render(values)


def shown(value: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Return a value from a store as text. Invisible characters are replaced by ␣, and a long text is cut."""
    text = shortened(value if isinstance(value, str) else str(value), limit)
    return "".join("␣" if unicodedata.category(character) in _UNSEEN else character for character in text)


def number(value: object, digits: int = 2) -> str:
    """Return a number with a fixed number of decimals; "–" if the value is not a finite number."""
    known = _finite(value)
    if known is None:
        return "–"
    return f"{known:.3e}" if abs(known) >= _LARGE else f"{known:,.{digits}f}"


def short_number(value: object) -> str:
    """Return a number with four significant digits; "–" if the value is not a finite number."""
    known = _finite(value)
    if known is None:
        return "–"
    return f"{known:,.0f}" if 1000 <= abs(known) < _LARGE else f"{known:.4g}"


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        known = float(value)
    except OverflowError:  # `value` is an int of more than 308 digits
        return None
    return known if math.isfinite(known) else None


def utc(seconds: float | None) -> str:
    """Return a Unix time as text in UTC; "–" for None."""
    if seconds is None:
        return "–"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "number": number, "short": short_number, "utc": utc}
    environment.globals |= {"asset": asset_url, "endpoint": endpoint}
    return environment


def _template(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text("utf-8")
