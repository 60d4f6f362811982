"""The numbers in a model's metadata."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

import attrs

# numbers that are neither errors nor correlations
_NOT_FIGURES = ("node_type", "rows", "mape_floor")

# most models of a store have the same figures: one tuple of their names serves all
_KEYS: dict[tuple[str, ...], tuple[str, ...]] = {}
_MOST_KEYS = 1000


@attrs.frozen(eq=False)
class Figures:
    """Errors, correlations and the like, by name."""

    keys: tuple[str, ...]
    values: array[float]
    data: tuple[Any, ...]
    """What they were measured on: models with the same can be compared as they are."""
    relative: float
    """The mae divided by that of always answering the mean of the training data; NaN if not known."""


def read_figures(metadata: Mapping[str, Any], otherwise: tuple[Any, ...]) -> Figures:
    """The figures of a model: numbers at the top of its metadata, and per component
    `<component>_<figure>` of its validation. `r2` is the lowest of the components'.

    `otherwise` says what they were measured on if the metadata does not.
    """
    found = {
        key: float(value)
        for key, value in metadata.items()
        if _is_number(value) and key not in _NOT_FIGURES and not (_is_error(key) and value < 0)
    }
    components = _components(metadata)
    for component, measured in components.items():
        for key, value in measured.items():
            if _is_number(value) and key not in _NOT_FIGURES and not (_is_error(key) and value < 0):
                found.setdefault(f"{component}_{key}", float(value))
    r2 = [m["r2"] for m in components.values() if _is_number(m.get("r2"))]
    if r2:
        found.setdefault("r2", float(min(r2)))
    if len(_KEYS) > _MOST_KEYS:
        _KEYS.clear()
    keys = tuple(found)
    keys = _KEYS.setdefault(keys, keys)
    return Figures(keys, array("d", found.values()), _data(metadata, otherwise), _relative(components))


def _is_error(key: str) -> bool:
    # the public database writes -1 for an error that is not known
    return key.endswith(("mae", "mape", "mse"))


def _is_number(value: object) -> bool:
    return type(value) is float or type(value) is int


def _components(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    validation = metadata.get("validation")
    components = validation.get("components") if isinstance(validation, dict) else None
    if not isinstance(components, dict):
        return {}
    return {name: found for name, found in components.items() if isinstance(found, dict)}


def _data(metadata: Mapping[str, Any], otherwise: tuple[Any, ...]) -> tuple[Any, ...]:
    lineage, validation = metadata.get("lineage"), metadata.get("validation")
    if isinstance(lineage, dict) and isinstance(validation, dict) and "data" in lineage:
        # feature groups of one recording can have fewer rows, where their series begin later
        return (str(lineage["data"]), str(validation.get("timestamps")), *otherwise[1:])
    return otherwise


def _relative(components: Mapping[str, Mapping[str, Any]]) -> float:
    known = [
        (measured["mae"], measured["constant_mae"])
        for measured in components.values()
        if _is_number(measured.get("mae")) and _is_number(measured.get("constant_mae"))
    ]
    if not known:
        return math.nan
    worst, constant = max(known)
    return float(worst / constant) if constant > 0 else math.nan
