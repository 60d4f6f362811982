"""The file with the published coefficients of the machine formula, and its reader."""

from __future__ import annotations

import functools
import importlib.resources
from typing import Annotated

import msgspec

from kepler_core.documents import DocumentError, Number, Text, decode_json
from kepler_core.errors import KeplerError

LAYOUT = 1
"""Version of the file's layout. A file with another version is rejected."""
LEVELS = tuple(level / 10 for level in range(11))
"""The loads at which errors were measured: active idle, 10 %, …, 100 % of the highest throughput."""

Coefficients = dict[Text, Number]
"""Coefficient of each term. The keys are the names of the terms (see `kepler_profiler.machine_description.terms`)."""
Levels = Annotated[list[Number], msgspec.Meta(min_length=len(LEVELS), max_length=len(LEVELS))]
"""List with one number for each load in `LEVELS`."""


class FormulaError(KeplerError):
    """The file with the coefficients of the machine formula cannot be used."""


class Residuals(msgspec.Struct, forbid_unknown_fields=True):
    """Errors of the formula at each load, for machines that it was not fitted to."""

    lower: Levels
    """5 % quantile of ln(measured watts ÷ estimated watts) at each load."""
    upper: Levels
    """95 % quantile of ln(measured watts ÷ estimated watts) at each load."""
    mape: Levels
    """Mean absolute errors in percent of the measured watts."""


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """Coefficients for the shape of the power curve between idle and full load, which is not a straight line."""

    root: Coefficients
    """Coefficients of the part of the curve that is proportional to (√load − load)."""
    square: Coefficients
    """Coefficients of the part of the curve that is proportional to (load² − load)."""


class ErrorClass(msgspec.Struct, forbid_unknown_fields=True):
    """A class of machines, and how wide the 90 % intervals of these machines are."""

    about: Text
    scale: Annotated[float, msgspec.Meta(ge=1, le=10)]
    """The quantiles in `Residuals` are multiplied by this factor, so that the intervals of the class get wider."""
    factor: Annotated[float, msgspec.Meta(ge=1, le=10)]
    """Minimum width of the interval: it contains all powers from watts ÷ factor to watts × factor."""
    measured: bool
    """Whether the formula's errors were measured for this class. If not, `factor` is a documented assumption."""


class FormulaDocument(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the file `machines/formula.json`."""

    layout: int
    source: Text
    attribution: Text
    machines: int
    """Number of machines that the coefficients were fitted to."""
    full: Coefficients
    """Coefficients that predict ln(watts at full load)."""
    idle: Coefficients
    """Coefficients that predict ln(idle watts ÷ watts at full load)."""
    full_by_idle: Coefficients
    """Coefficients that predict ln(watts at full load) if the idle power is known.

    The term `idle` is ln(idle watts ÷ 100).
    """
    shape: Shape
    imputed: dict[Text, Coefficients]
    """For each property of a machine that may be unknown: coefficients that predict a usual value of the property."""
    residuals: dict[Text, Residuals]
    """Errors of the formula if certain facts about the machine are unknown.

    A key has the names of the unknown facts, joined by "+"; it is empty if all facts are known.
    """
    residuals_by_idle: dict[Text, Residuals]
    """Like `residuals`, but for machines whose idle power is known."""
    classes: dict[Text, ErrorClass]
    guest_factor: Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]
    """Lowest and highest usual value of (dynamic power ÷ load) ÷ (dynamic power at full load).

    They are the 5 % and 95 % quantiles over all loads of the measured machines.
    """


def decode_formula(content: bytes, document: str) -> FormulaDocument:
    """Decode the content of a file with coefficients. `document` is the file's name. Raises `FormulaError`."""
    try:
        decoded = decode_json(content, FormulaDocument)
    except DocumentError as error:
        raise FormulaError(error.message, document=document) from error
    if decoded.layout != LAYOUT:
        raise FormulaError(f"layout {decoded.layout}; this version reads layout {LAYOUT}", document=document)
    return decoded


@functools.cache
def published_formula() -> FormulaDocument:
    """Return the coefficients that ship with Kepler Core. Raises `FormulaError`."""
    name = "machines/formula.json"
    file = importlib.resources.files("kepler_config") / "machines" / "formula.json"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FormulaError(str(error.strerror or error), document=name) from error
    return decode_formula(content, name)
