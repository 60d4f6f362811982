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
"""Name of a term (see `kepler_profiler.formula.terms`) -> its coefficient."""
Levels = Annotated[list[Number], msgspec.Meta(min_length=len(LEVELS), max_length=len(LEVELS))]
"""One number for each load in `LEVELS`."""


class FormulaError(KeplerError):
    """The file with the coefficients of the machine formula cannot be used."""


class Residuals(msgspec.Struct, forbid_unknown_fields=True):
    """Quantiles of ln(measured ÷ estimated watts) of machines that the formula was not fitted to, by load."""

    lower: Levels
    """The 5 % quantiles."""
    upper: Levels
    """The 95 % quantiles."""
    mape: Levels
    """Mean absolute errors in percent of the measured watts."""


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """Coefficients of the two terms that turn the straight line from idle to full load into a curve."""

    root: Coefficients
    """Coefficients whose sum is multiplied by (√load − load)."""
    square: Coefficients
    """Coefficients whose sum is multiplied by (load² − load)."""


class ErrorClass(msgspec.Struct, forbid_unknown_fields=True):
    """A class of machines, and the width of the 90 % intervals of its machines."""

    about: Text
    scale: Annotated[float, msgspec.Meta(ge=1, le=10)]
    """Factor by which the quantiles in `Residuals` are multiplied."""
    factor: Annotated[float, msgspec.Meta(ge=1, le=10)]
    """The interval reaches at least from watts ÷ factor to watts · factor."""
    measured: bool
    """Whether the formula's errors for such machines were measured. If not, `factor` is a documented assumption."""


class FormulaDocument(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the file `machines/formula.json`."""

    layout: int
    source: Text
    attribution: Text
    machines: int
    """Number of machines that the coefficients were fitted to."""
    full: Coefficients
    """Coefficients of ln(watts at full load)."""
    idle: Coefficients
    """Coefficients of ln(idle watts ÷ watts at full load)."""
    full_by_idle: Coefficients
    """Coefficients of ln(watts at full load) if the idle power is known; the term `idle` is ln(idle watts ÷ 100)."""
    shape: Shape
    imputed: dict[Text, Coefficients]
    """Input that may be missing -> coefficients of the value that replaces it."""
    residuals: dict[Text, Residuals]
    """Missing inputs, joined by "+" ("" if none is missing) -> residuals of the formula."""
    residuals_by_idle: dict[Text, Residuals]
    """Missing inputs -> residuals of the formula, as in `residuals`, but for machines whose idle power is known."""
    classes: dict[Text, ErrorClass]
    guest_factor: Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]
    """5 % and 95 % quantiles, over all loads, of the ratio (dynamic power ÷ load) ÷ (dynamic power at full load)."""


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
