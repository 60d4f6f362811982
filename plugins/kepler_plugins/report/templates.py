"""Render the templates of this folder."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Return one HTML document without references to other files. All values are escaped unless they are marked safe.

    Equal values give equal documents.
    """
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "signed": signed, "percent": percent}
    return environment.get_template(template).render(style=_asset("style.css"), script=_asset("table.js"), **values)


def number(value: float | None, digits: int = 2) -> str:
    """Return a number as text for a cell of a table; "–" for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """Return a difference with its sign, as text for a cell of a table; "–" for None."""
    return "–" if value is None else f"{value:+,.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Return a fraction as a percentage, as text for a cell of a table; "–" for None."""
    return "–" if value is None else f"{100 * value:.0f} %"


def _asset(name: str) -> str:
    """Return the text of a file in the folder of this module."""
    return files("kepler_plugins.report").joinpath(name).read_text("utf-8")
